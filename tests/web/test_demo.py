"""The demo without its page: its images are the sampler's, every request is checked, mistakes are told."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from distillkac import demo
from distillkac.runs import pictures
from distillkac.runs.run import open_run
from distillkac.web import engine
from distillkac.web.engine import Demo
from tests.web.demo_tools import CPU, GOOD, MISTAKES, direct, tiny_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tiny_runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.one_alignment
def test_choices_are_what_the_sampler_gives(runs):
    answers = Demo(runs, CPU).generate("telegraph", [100, 2, 4], classes=["3", "7"], num=5, seed="8")
    expected = [(2, "student-2", 2, 3), (4, "teacher", 4, 5), (100, "teacher", 100, 21)]
    assert [(a.steps, a.network, a.nfe, len(a.frames)) for a in answers] == expected
    for answer in answers:
        folder = runs[0] / "student-2" if answer.steps == 2 else runs[0]
        samples = direct(folder, answer.steps, 5, 8, ("3", "7"))
        assert answer.frames[0] == pictures.grid_image(samples.path[0], 3)
        assert answer.frames[-1] == pictures.grid_image(samples.images, 3)
        assert answer.times[0] == 1
        assert answer.times[-1] == 0
        assert answer.seconds > 0
    assert answers[2].frames[1] == pictures.grid_image(samples.path[5], 3)  # every fifth of a hundred


def test_a_choice_that_cannot_be_says_so_and_the_others_are_made(runs):
    student, teacher = Demo(runs, CPU).generate("telegraph", [2, 4], w="2")
    assert student.error.startswith("telegraph/student-2 was distilled with w = 0.0 folded in")
    assert (student.frames, teacher.nfe, teacher.error) == ((), 8, "")
    missing = Demo(runs, CPU).generate("planar", [2], model="student")[0].error
    assert missing.startswith("planar has no student for 2 steps")
    assert str(runs[1].parent) not in student.error + missing


def test_mistakes_are_told_in_a_sentence(runs):
    made = Demo(runs, CPU)
    for change, sentence in MISTAKES:
        with pytest.raises(ValueError, match=re.escape(sentence)) as told:
            made.generate(**GOOD | change)
        assert len(str(told.value)) < 200


def test_large_images_are_fewer_with_fewer_frames(runs, monkeypatch):
    monkeypatch.setattr(engine, "MAX_VALUES", 64 * 9)
    monkeypatch.setattr(engine, "FRAME_VALUES", 64 * 9 * 2 * 7)
    made = Demo(runs, CPU)
    assert made.max_images("planar") == 9
    assert [len(a.frames) for a in made.generate("planar", [4, 20], num=9)] == [5, 7]
    with pytest.raises(ValueError, match="from 1 to 9"):
        made.generate("planar", [1], num=10)


def test_runs_of_one_process_are_told_apart(runs):
    assert list(Demo((runs[0], runs[0] / "student-2"), CPU).runs) == ["telegraph (telegraph)", "telegraph (student-2)"]
    assert len(Demo((runs[0], runs[0]), CPU).runs) == 2


def test_networks_are_loaded_once(runs, monkeypatch):
    opened = []
    monkeypatch.setattr(engine, "open_run", lambda folder, device: opened.append(folder) or open_run(folder, device))
    made = Demo(runs, CPU)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: made.generate("telegraph", [1, 2], num=1, seed=seed), range(8)))
    assert sorted(opened) == sorted([*runs, runs[0] / "student-2"])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "name at least one run folder"),
        (["TMP"], "is no run folder"),
        (["RUN", "TMP"], "is no run folder"),
        (["RUN", "--port", "0"], "--port must lie in 1 .. 65535, got 0"),
        (["RUN", "--share"], "--share"),
    ],
)
def test_mistakes_on_the_command_line(runs, tmp_path, capsys, argv, sentence):
    argv = [word.replace("RUN", str(runs[0])).replace("TMP", str(tmp_path)) for word in argv]
    try:
        code = demo.main(argv)
    except SystemExit as stop:
        code = stop.code
    streams = capsys.readouterr()
    assert code not in (0, None)
    assert sentence in streams.err + streams.out
    assert "Traceback" not in streams.err


def test_without_gradio_the_extra_is_named(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert demo.main([str(runs[0])]) == 1
    assert capsys.readouterr().err == (
        "error: the demo page needs the package gradio, which is not installed: pip install 'distillkac[demo]'\n"
    )
