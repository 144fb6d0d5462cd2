"""The page of a run: whose figures it shows, and what it says of files that are none."""

from distillkac import distill, evaluate, report, train
from tests.commands.tiny import TINY


def test_report_says_which_figures_are_of_earlier_weights(tmp_path, quick, capsys):
    run = tmp_path / "run"
    assert train.main([*TINY, "--run", str(run), "--steps", "2"]) == 0
    assert distill.main([str(run), "--stages", "2,1", "--steps", "1", "--optim.batch-size", "16"]) == 0
    assert evaluate.main([str(run), "--num", "40", "--teacher-steps", "2"]) == 0
    assert report.main([str(run)]) == 0
    assert "Measured before" not in (run / "report.html").read_text()
    assert train.main([*TINY, "--run", str(run), "--steps", "3", "--resume"]) == 0
    assert report.main([str(run)]) == 0
    assert (
        "Measured before they became what they are now: teacher. Evaluate again." in (run / "report.html").read_text()
    )
    for wrong in ("{}", "[]", '{"rows": [{"name": "teacher", "frechet": null}]}'):
        (run / "evaluation.json").write_text(wrong)
        capsys.readouterr()
        assert report.main([str(run)]) == 1
        assert "evaluation.json is no file of figures as evaluate writes it" in capsys.readouterr().err
