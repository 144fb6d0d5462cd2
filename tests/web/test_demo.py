"""The demo without its page: its images are the sampler's, every request is checked, mistakes are told."""

import copy
import dataclasses
import re
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distillkac import demo
from distillkac.data.config import LatentSpace
from distillkac.runs import pictures, shipped
from distillkac.runs.run import open_run
from distillkac.runs.sampler import SamplerConfig
from distillkac.web import engine
from distillkac.web.engine import Demo
from tests.web.demo_tools import CPU, GOOD, MISTAKES, direct, join


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


def test_a_choice_that_cannot_be_says_so_and_the_others_are_made(runs, monkeypatch):
    student, other = Demo(runs, CPU).generate("telegraph", [2, 4], w="2", model="student")
    assert student.error.startswith("telegraph/student-2 was distilled with w = 0.0 folded in")
    assert (student.frames, other.frames) == ((), ())
    with pytest.warns(UserWarning, match="the teacher is sampled in 2 steps: .*student-2 was distilled with w = 0.0"):
        answers = Demo(runs, CPU).generate("telegraph", [2, 4], w="2")
    assert [(a.network, a.nfe, a.error) for a in answers] == [("teacher", 4, ""), ("teacher", 8, "")]
    missing = Demo(runs, CPU).generate("planar", [2], model="student")[0].error
    assert missing.startswith("planar has no student for 2 steps")
    assert str(runs[1].parent) not in student.error + missing
    monkeypatch.chdir(runs[0])
    (here,) = Demo((Path("."),), CPU).generate("telegraph", [2], w="2", model="student")
    assert here.error.startswith("telegraph/student-2 was distilled with w = 0.0 folded in")


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


def test_shipped_models_have_their_names_and_their_steps(runs):
    made = Demo((Path("digits"),), CPU)
    assert (list(made.runs), made.steps, made.shipped) == (["digits"], (1, 2, 4), True)
    answers = made.generate("digits", [1, 4], num=10)
    assert [(a.network, a.nfe, a.error) for a in answers] == [
        ("student-1-inverse", 1, ""),
        ("student-4-consistency", 4, ""),
    ]
    (missing,) = made.generate("digits", [20])
    assert missing.error.startswith("digits has no student for 20 steps (students: 4, 1)")
    both = Demo((Path("digits"), runs[1]), CPU)
    assert (list(both.runs), both.steps, both.shipped) == (["digits", "planar"], engine.STEPS, False)
    with pytest.raises(ValueError, match="name at least one run folder"):
        Demo((), CPU)


def test_without_a_run_the_page_has_the_shipped_models_and_draws_as_it_opens(monkeypatch, capsys):
    gradio = pytest.importorskip("gradio")
    seen = []

    def visited(page):
        seen.append([event for _, event in page.config["dependencies"][0]["targets"]])
        session = secrets.token_hex(8)
        assert join(page, session, run=next(iter(shipped.index())), steps=[1, 4]) == 200
        page.close(verbose=False)

    monkeypatch.setattr(gradio.Blocks, "block_thread", visited)
    assert demo.main([]) == 0
    assert capsys.readouterr().out.startswith(f"{', '.join(shipped.index())}: http://127.0.0.1:")
    assert "load" in seen[0]


def test_a_page_of_runs_waits_for_a_click(runs):
    pytest.importorskip("gradio")
    from distillkac.web import page

    targets = page.build(Demo(runs, CPU)).config["dependencies"][0]["targets"]
    assert "load" not in [event for _, event in targets]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["TMP"], "is no run folder"),
        (["RUN", "TMP"], "is no run folder"),
        (["RUN", "--port", "0"], "port must lie in [1, 65535], got 0"),
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


def test_images_made_of_latents_count_as_they_are_shown(runs):
    made = Demo(runs, CPU)
    title = "planar"
    space = LatentSpace("vae", 1.0, 0.0, "", (3, 256, 256))
    made.configs[title] = dataclasses.replace(made.configs[title], latent=space)
    assert made.max_images(title) == engine.MAX_VALUES // (3 * 256 * 256)


def test_images_that_are_not_finite_are_no_black_pictures(runs, monkeypatch):
    made = Demo(runs, CPU)
    run = made._open("planar", SamplerConfig(1))
    broken = copy.deepcopy(run.network)
    for weight in broken.parameters():
        weight.data.fill_(1e25)
    monkeypatch.setattr(made, "_open", lambda *_: dataclasses.replace(run, network=broken))
    (choice,) = made.generate("planar", [1], num=3)
    assert choice.error.startswith(
        "3 of 3 images hold values that are not finite: the sampler diverged; take more steps"
    )
    assert not choice.frames
