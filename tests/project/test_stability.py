"""benchmarks/stability: its figures on what is known by hand, its bookkeeping, a few cells of a tiny run, and the pages."""

import dataclasses

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks.stability import __main__ as stability
from benchmarks.stability import errors, integrators, measure, plots, report
from benchmarks.stability.plan import MOST_STUDENT_STEPS, PROCESSES, STUDENT, Cell, bound_of, cells, quick_plan
from benchmarks.stability.store import Store
from distillkac.base import files
from distillkac.evaluation.diagnostics import PathErrors
from tests.places import ROOT

PLAN = dataclasses.replace(
    quick_plan(64, 0), student=(*STUDENT, "--consistency.steps", "4", "--consistency.teacher-steps", "1"), points=8
)


@pytest.fixture(autouse=True)
def no_precision_stays():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory, digits_run):
    """Teacher (telegraph) and student, which have learned next to nothing."""
    store = Store(tmp_path_factory.mktemp("stability"), PLAN, {"telegraph": digits_run})
    store.check()
    store.train("telegraph")
    return store


def test_what_leaves_the_range_is_counted():
    images = torch.zeros(4, 1, 2, 2)
    images[0, 0, 0, 0] = float("nan")
    images[1, 0] = torch.tensor([[1.0, -1.0], [1.04, -1.5]])
    images[2, 0, 0, 0] = -3
    found = measure.ranges(images)
    assert found["not_finite"] == 1 / 4
    assert found["beyond"] == 3 / 12  # of the three images that are finite; 1 and -1 are in range
    assert found["far_beyond"] == 2 / 12
    assert found["excess"] == pytest.approx((0.04 + 0.5 + 2) / 3, rel=1e-6)
    assert found["largest"] == 3
    assert measure.ranges(torch.full((2, 1, 2, 2), torch.inf)) == dict.fromkeys(found, 0.0) | {"not_finite": 1.0}


def test_bounds_are_those_of_the_targets():
    assert bound_of(PROCESSES["telegraph"]) == 3
    assert bound_of(PROCESSES["planar"]) == pytest.approx(2 + 2**0.5)
    assert bound_of(PROCESSES["gaussian"]) == 3


def test_every_cell_has_a_name_of_its_own_and_the_cheap_come_first():
    found = list(cells(("telegraph", "gaussian"), (0.0, 16.0), (100, 1)))
    assert len({cell.name for cell in found}) == len(found) == 2 * 2 * 2 * 3
    assert [cell.steps for cell in found] == sorted(cell.steps for cell in found)
    assert max(cell.steps for cell in found if cell.network == "student") <= MOST_STUDENT_STEPS


def test_a_bound_holds_what_guidance_does_and_rows_are_kept(store, monkeypatch):
    monkeypatch.setattr(measure, "bound_of", lambda process: 0.5)  # what has hardly learned is no faster than 3
    rows = {}
    for bounded in (False, True):
        cell = Cell("telegraph", "teacher", 16.0, 4, bounded)
        measure.measure(store, cell)
        rows[bounded] = store.read("grid", cell.name)
    # Noise is within c = 2, and in unit time nothing moves further than the bound.
    assert rows[True]["largest"] <= 2 + 0.5 + 1e-3 < rows[False]["largest"]
    assert rows[False]["max_speed"] is None
    assert rows[True]["nfe"] == 8
    assert all(row["frechet"] > 0 and row["not_finite"] == 0 for row in rows.values())
    measure.measure(store, Cell("telegraph", "student", 4.0, 2, False))
    assert store.read("grid", "telegraph-student-w4-steps2-free")["nfe"] == 2  # its weight is an input
    monkeypatch.setattr(measure, "generate", lambda *a, **k: pytest.fail("measured twice"))
    measure.measure(store, cell)


def test_figures_of_other_weights_or_another_plan_are_refused(store):
    measure.measure(store, Cell("telegraph", "teacher", 0.0, 1, False))
    rows = store.rows("grid")
    assert store.checked(rows) == rows
    with pytest.raises(ValueError, match="figures of another teacher of telegraph noise"):
        store.checked([rows[0] | {"network": "teacher", "weights": "other"}])
    with pytest.raises(ValueError, match="figures of another plan"):
        Store(store.out, dataclasses.replace(PLAN, num=65), {}).check()
    with pytest.raises(ValueError, match="and planar is"):
        Store(store.out, PLAN, {"planar": store.given["telegraph"]}).check()


def of(ends, paths):
    return PathErrors(torch.tensor(ends), torch.tensor(paths), torch.zeros(len(ends)), torch.zeros(len(ends)))


def test_ranks_are_compared_over_all_samples():
    assert errors.spearman([of([0.1, 0.2], [1.0, 2.0]), of([0.3], [50.0])]) == pytest.approx(1)
    assert errors.spearman([of([0.1, 0.2], [9.0, 8.0]), of([0.3], [7.0])]) == pytest.approx(-1)


def test_errors_of_a_run(store, monkeypatch):
    monkeypatch.setattr(errors, "FINE", 20)
    monkeypatch.setattr(errors, "GUIDED", (0.0,))
    errors.measure_errors(store, "telegraph")
    rows = store.rows("errors")
    assert [row["steps"] for row in rows] == [*errors.COUNTS, errors.ALL] * 2
    teacher = [row["endpoint"] for row in rows if row["network"] == "teacher" and row["w"] == 0 and row["steps"]]
    assert teacher[-1] < teacher[0] / 4  # more of its own steps are nearer to its path
    assert all(row["path"] >= row["endpoint"] for row in rows if row["steps"])


def test_the_exact_velocity_is_reached_by_second_order():
    ends = integrators.of_exact(PLAN, "gaussian", 8)
    truth = ends(200, "ab2", 2.0)
    away = {way: float((ends(20, *way) - truth).square().mean().sqrt()) for way in integrators.WAYS}
    assert away["ab2", 2.0] < away["euler", 2.0] / 2


def test_integrators_go_on_where_they_were_stopped(store, monkeypatch):
    monkeypatch.setattr(integrators, "COUNTS", (1, 2))
    integrators.measure_integrators(store, "exact-telegraph-8")
    rows = store.read("integrators", "exact-telegraph-8")
    assert [(row["method"], row["rho"], row["steps"]) for row in rows] == [
        (method, rho, steps) for steps in (1, 2) for method, rho in integrators.WAYS
    ]
    one = [row["error"] for row in rows if row["steps"] == 1]
    assert one == [one[0]] * 4  # the first step is Euler's, whatever the grid
    store.write("integrators", "exact-telegraph-8", rows[:-1])
    integrators.measure_integrators(store, "exact-telegraph-8")
    assert store.read("integrators", "exact-telegraph-8") == rows


def test_the_report_is_that_of_its_files(store, tmp_path):
    measure.measure(store, Cell("telegraph", "teacher", 16.0, 4, False))
    made = report.write(tmp_path, store)
    assert list(made) == list(report.NAMES)
    assert report.texts(report.read(tmp_path)) == made
    assert "| telegraph (25, 2) | teacher | 4 |" in made["stability"]
    for name in (plots.STABILITY, plots.INTEGRATORS):
        assert (tmp_path / name).stat().st_size > 0
    row = store.rows("grid")[0]
    with pytest.raises(ValueError, match="cannot stand in one table"):
        report.grid_table([row, row | {"evaluator_digest": "another"}])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num", "3"], "num at least 64"),
        (["--processes", "brownian"], "processes must be some of telegraph, planar, gaussian"),
        (["--steps", "0"], "steps must be at least 1"),
    ],
)
def test_mistakes_are_told(tmp_path, capsys, words, message):
    assert stability.main(["--out", str(tmp_path / "out"), *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tables_of_the_page_are_those_of_its_files():
    texts = report.texts(report.read(ROOT / "docs" / "stability"))
    for name in report.NAMES:
        assert files.marked(ROOT / "docs" / "results.md", name).strip() == texts[name].strip()
