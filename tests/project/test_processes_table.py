"""examples/processes_table.py: a few cells with little training; what is done is not done again."""

import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac.base.files import read_json
from tests.places import ROOT, script


@pytest.fixture(scope="module")
def table():
    return script(ROOT / "examples" / "processes_table.py")


@pytest.fixture(autouse=True)
def no_precision_stays():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def cells(out):
    return read_json(out / "table.json")["cells"]


def test_students_of_one_step_do_what_their_teachers_do(table, tmp_path, capsys):
    out = tmp_path / "table"
    arguments = ["--out", str(out), "--effort", "0.15", "--processes", "edm", "--methods", "pairs", "endpoint"]
    assert table.main(arguments) == 0
    done = cells(out)
    assert list(done) == ["edm/teacher", "edm/pairs", "edm/endpoint"]
    noise = table.distance_of_nothing(table.moons(4000))
    assert 0.01 < done["edm/teacher"] < 0.35 * noise
    # One Euler step of the teacher itself, which on this path hardly leaves the noise, is no better than noise.
    run = table.open_run(out / "edm" / "teacher", network=table.Plane())
    assert table.distance(run, table.moons(4000), table.SamplerConfig(1)) > 0.9 * noise
    assert done["edm/pairs"] < 1.5 * done["edm/teacher"]
    assert done["edm/endpoint"] < 2.5 * done["edm/teacher"]
    written = (out / "edm" / "pairs" / "student-1-pairs" / "ema.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert table.main(arguments) == 0
    assert cells(out) == done
    assert (out / "edm" / "pairs" / "student-1-pairs" / "ema.safetensors").stat().st_mtime_ns == written
    assert f"| edm | {done['edm/teacher']:.4f} | {done['edm/pairs']:.4f} |" in capsys.readouterr().out


def test_mistakes_are_told(table, tmp_path, capsys):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for arguments, message in (
        (["--processes", "diffusion"], "processes must be some of linear, cosine"),
        (["--methods", "magic"], "methods must be some of endpoint"),
        (["--out", str(tmp_path)], "holds files that are not this table's"),
    ):
        assert table.main(arguments) == 1
        assert message in capsys.readouterr().err
    assert (tmp_path / "file").exists()


def test_the_path_of_its_own_is_one(table):
    table.add_path("eased", table.eased)
    alpha, sigma = table.ROWS["a function"].build().schedules(torch.linspace(0, 1, 5, dtype=torch.float64))
    torch.testing.assert_close(alpha[0] ** 2 + sigma[0] ** 2, torch.ones(5, dtype=torch.float64))
    assert alpha[1].abs()[[0, -1]].max() < 1e-4, "it begins and ends slowly"
