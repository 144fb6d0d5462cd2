"""The comparison: its plan in command lines, its bookkeeping, its report; a whole tiny run end to end."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib

import pytest
import torch

from distillkac import compare
from distillkac.base import files
from distillkac.distillation.inverse_options import InverseConfig
from distillkac.distillation.stages import DistillConfig, stages_of
from distillkac.evaluation import comparison_report, measurements
from distillkac.evaluation.comparison import SETTINGS, Method, Plan, equal_compute, full_plan, quick_plan
from tests.toys import refused

TINY_CHAIN = DistillConfig(stages=(4, 2, 1), steps=(2, 2))
TINY = Plan(
    settings=SETTINGS[:2],
    everywhere=(
        Method("endpoint", "endpoint", TINY_CHAIN, ((2, 0.0), (1, 0.0))),
        Method(
            "inverse",
            "inverse",
            DistillConfig(stages=(1,), steps=(), inverse=InverseConfig(steps=2)),
            ((1, 0.0),),
            after="endpoint",
        ),
    ),
    extra={
        "telegraph": (
            Method("guided-own", "own states", dataclasses.replace(TINY_CHAIN, w=2.0, backward=1.0), ((1, 0.0),)),
        )
    },
    seeds=(0,),
    teacher_steps=4,
    teacher_samples=(("ab2", 2), ("euler", 1)),
    num=40,
)


def test_only_what_differs_from_the_defaults_is_said(tmp_path):
    plan = full_plan((0,))
    options = {m.name: compare.method_options(tmp_path, m, 3) for m in plan.methods(plan.settings[0])}
    assert options["endpoint"] == [str(tmp_path), "--out", str(tmp_path / "endpoint"), "--seed", "3"]
    assert options["guided-own"][3:] == ["--backward", "1.0", "--w", "3.0", "--seed", "3"]
    assert options["inverse"][3:5] == ["--stages", "1"]
    assert options["inverse"][-4:-2] == ["--start", str(tmp_path / "endpoint" / "student-1")]
    of_pairs, at_best = ["pairs", "pairs-inverse"], ["consistency", "one-network", "one-step", "best"]
    assert [m.name for m in plan.methods(plan.settings[1])] == ["endpoint", "inverse", "longer", *of_pairs, *at_best]
    for parts in (of_pairs, at_best):  # of one plan, in one folder
        for name in parts:
            assert options[name][:3] == [str(tmp_path), "--out", str(tmp_path / parts[-1])]
        whole, part = options[parts[-1]], options[parts[-2]]
        assert {word.split(".")[0] for word in whole if word[:2] == "--" and word not in part} == {"--inverse"}
    assert options["pairs"][3:5] == ["--stages", "20,4,2,1"]
    assert options["consistency"][3:5] == ["--method", "consistency"]
    assert all(word not in options["consistency"] for word in ("--stages", "--steps", "--pairs.count"))
    measured = [
        (method.student(steps)) for method in plan.methods(plan.settings[1])[-4:] for steps, _ in method.samples
    ]
    assert measured == [(4, "consistency")] * 3 + [(4, "pairs")] * 3 + [(1, "pairs"), (1, "inverse")]
    noise = compare.teacher_options(tmp_path, plan, plan.settings[4], 1)
    assert noise == ["--run", str(tmp_path), "--process", "planar", "--a", "9.0", "--c", "3.0", "--steps", "3000",
                     "--seed", "1"]  # fmt: skip


def test_single_stages_get_as_many_evaluations_as_the_chain():
    chain = DistillConfig()
    evaluations = sum(s.steps * (s.teacher_steps // s.num_steps + 3) for s in stages_of(chain))
    for steps in (20, 100):
        (stage,) = stages_of(equal_compute(chain, steps))
        assert stage.num_steps == 1
        assert stage.steps * (steps + 3) == pytest.approx(evaluations, rel=0.02)


def test_another_plan_does_not_mix_with_what_is_there(tmp_path):
    compare.check_same_plan(tmp_path, TINY)
    compare.check_same_plan(tmp_path, dataclasses.replace(TINY, seeds=(0, 1)))  # more seeds are welcome
    with pytest.raises(ValueError, match="results of another plan"):
        compare.check_same_plan(tmp_path, dataclasses.replace(TINY, teacher_steps=5))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The tiny plan, done in this process: (folder, rows, Markdown)."""
    out = tmp_path_factory.mktemp("compare")
    for setting in TINY.settings:
        compare.run_cell(out, TINY, setting, 0)
    rows = [row for s in TINY.settings for row in json.loads((out / f"{s.name}-seed-0" / "results.json").read_text())]
    return out, rows, comparison_report.write(out, TINY, rows)


def test_every_network_is_measured(compared):
    _, rows, _ = compared
    first = [(r["method"], r["integrator"], r["steps"], r["nfe"]) for r in rows if r["setting"] == "telegraph"]
    assert first == [
        ("teacher", "ab2", 2, 2),
        ("teacher", "euler", 1, 1),
        ("endpoint", "euler", 2, 2),
        ("endpoint", "euler", 1, 1),
        ("inverse", "euler", 1, 1),
        ("guided-own", "euler", 1, 1),
    ]
    assert len([r for r in rows if r["setting"] == "planar"]) == 5
    assert all(r["frechet"] > 0 and r["seconds_per_image"] > 0 for r in rows)
    by_nfe = {r["nfe"]: r["flops_per_image"] for r in rows}
    assert by_nfe[2] == 2 * by_nfe[1] > 1e6
    assert [r["method"] for r in rows if "frechet_guided_teacher" in r] == ["guided-own"]


def test_what_is_finished_is_not_done_again(compared, monkeypatch):
    out, rows, _ = compared
    monkeypatch.setattr(measurements, "generate", lambda *a, **k: pytest.fail("measured twice"))
    compare.run_cell(out, TINY, TINY.settings[0], 0)
    assert json.loads((out / "telegraph-seed-0" / "results.json").read_text()) == [
        r for r in rows if r["setting"] == "telegraph"
    ]


def test_report(compared):
    out, rows, text = compared
    for name in ("comparison.md", "comparison.csv", "frechet.png", "samples.png"):
        assert (out / name).stat().st_size > 0
    assert "| endpoint, 2 steps |" in text
    assert "| own states | 1 |" in text
    assert "Guided, on telegraph (25, 2)" in text
    lines = (out / "comparison.csv").read_text().splitlines()
    assert len(lines) == len(rows) + 1


def test_mean_and_standard_deviation_over_the_seeds():
    rows = [{"frechet": v} for v in (0.2, 0.3, 0.4)]
    mean, sd = comparison_report.summary(rows, "frechet")
    assert mean == pytest.approx(0.3)
    assert sd == pytest.approx(0.1)
    assert comparison_report.summary(rows[:1], "frechet") == (0.2, None)
    assert comparison_report.summary(rows, "accuracy") is None


def test_pages_get_the_tables_they_have_a_place_for(compared, tmp_path):
    _, rows, text = compared
    texts = comparison_report.texts(TINY, rows)
    assert texts["compare"] == text
    assert "| student, 1 step |" in texts["compare-short"]
    assert "own states" not in texts["compare-short"]
    pages = [tmp_path / "results.md", tmp_path / "README.md"]
    for page, name in zip(pages, texts, strict=True):
        page.write_text(f"before\n<!-- {name}:begin -->\nold\n<!-- {name}:end -->\nafter\n")
    files.into_pages(pages, texts)
    for page, (name, written) in zip(pages, texts.items(), strict=True):
        assert page.read_text() == f"before\n<!-- {name}:begin -->\n{written}<!-- {name}:end -->\nafter\n"
        assert files.marked(page, name) == written
    pages[0].write_text("no marks")
    with pytest.raises(ValueError, match="has no place for the result"):
        files.into_pages(pages, texts)


def test_a_failed_command_names_itself(tmp_path):
    with pytest.raises(ValueError, match="ended with exit code 1"):
        compare._command(lambda options: 1, ["--run", str(tmp_path)])


def test_a_worker_that_was_killed_is_told_in_a_sentence(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        killed = pool.submit(os._exit, 1)
        with pytest.raises(ValueError, match=f"before {tmp_path} was done: give the same command again"):
            compare.finish(killed, tmp_path)


def test_a_seed_is_named_once(tmp_path, capsys):
    error = refused(compare, ["--seeds", "0", "1", "0", "--out", tmp_path / "out"], capsys)
    assert "seeds must be named once each, got 0 1 0" in error
    assert not (tmp_path / "out").exists()


def test_kept_samples_are_the_first_images(compared):
    out, _, _ = compared
    path = comparison_report.samples_path(out / "telegraph-seed-0", "endpoint", 1, "euler", 0.0)
    assert torch.load(path, weights_only=True).shape == (40, 1, 8, 8)


def test_a_fourth_process_is_compared_on_request():
    plan = full_plan((0,), ("telegraph", "quad"))
    assert [setting.title for setting in plan.settings] == ["telegraph (25, 2)", "quad (25, 2√2)"]
    assert plan.methods(plan.settings[1]) == full_plan((0,)).methods(SETTINGS[1])  # as many as of planar noise
    words = compare.teacher_options(pathlib.Path("it"), plan, plan.settings[1], 0)
    assert words[2:6] == ["--process", "quad", "--c", str(2 * 2**0.5)]
    for wrong in (("quad", "quad"), ("brownian",)):
        with pytest.raises(ValueError, match=f"each once, got '{wrong[0]}'"):
            full_plan((0,), wrong)
    assert full_plan((0,)).settings == SETTINGS
    assert quick_plan((0,)).settings == SETTINGS[:3]
    assert [setting.name for setting in quick_plan((0,), ("quad",)).settings] == ["quad"]


def test_results_of_teachers_on_other_grids_do_not_mix(tmp_path):
    """Those of before the grid went by the number of steps."""
    compare.check_same_plan(tmp_path, TINY)
    before = json.loads((tmp_path / "plan.json").read_text())
    assert before.pop("teacher_rho") == [1.0, 1.0]
    files.write_json(tmp_path / "plan.json", before)
    with pytest.raises(ValueError, match="results of another plan"):
        compare.check_same_plan(tmp_path, TINY)
