"""`python -m distillkac.diagnose`: every measure against a case whose answer is known, then the command on tiny runs."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac import diagnose, distill, train
from distillkac.base.random import generator
from distillkac.evaluation import diagnostics, diffusion_limit, evaluators
from distillkac.flow.exact_start import ExactStart
from distillkac.flow.integrators import time_grid
from distillkac.flow.processes import Gaussian, Planar, Quad, Telegraph
from distillkac.ops import reference
from distillkac.runs.run import Run
from distillkac.runs.sampling import SamplerConfig, generate
from tests.toys import SHAPE, TINY_OPTIONS, ToyData, refusal, run_config

TINY = [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "16", "--steps", "2"]
FEW = ["--num", "12", "--reference-num", "8", "--guidance-num", "20", "--energy-num", "20"]
LABELS = torch.arange(24) % 2
PROCESSES = [Telegraph(), Planar(), Gaussian(), Quad(c=2.0)]
by_name = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)


class Field(torch.nn.Module):
    """A network given by a formula (x, t (B, 1, 1, 1), y) -> u."""

    null_class, guidance_embedding = 2, False

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x, t, y):
        return self.formula(x, t.view(-1, 1, 1, 1), y)


def run_of(formula, process=None):
    return Run(Path("teacher"), run_config(), process or Telegraph(), Field(formula), torch.device("cpu"))


def all_finite(value):
    """Whether every number in a JSON value is finite."""
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    if isinstance(value, list):
        return all(map(all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def test_velocities_are_found_again_from_an_ab2_path():
    run = run_of(lambda x, t, y: torch.cos(3 * t) * x + t)
    grid = time_grid(30, 1.5)
    sampler = SamplerConfig(steps=30, rho=1.5, integrator="ab2")
    path = generate(run, LABELS, sampler, path=True).path
    u = diagnostics.ab2_velocities(path, grid)
    want = torch.stack([run.network(x, torch.full((24,), t), LABELS) for x, t in zip(path, grid.tolist(), strict=True)])
    torch.testing.assert_close(u.float(), want[:-1], rtol=1e-3, atol=1e-3)


@by_name
def test_speeds_of_targets_stay_below_the_bound_and_excess_is_counted(process):
    """A network that runs at twice the bound in the last tenth of its time."""
    x0 = ToyData().x
    limit = None if process.name == "gaussian" else process.max_target_speed(float(x0.abs().max()))
    fast = 2 * (limit or 3.0) / {"planar": 2**0.5, "quad": 2.0}.get(process.name, 1.0)
    run, grid = run_of(lambda x, t, y: torch.where(t < 0.1, fast, 0.1).expand_as(x), process), time_grid(100, 1.0)
    path = generate(run, LABELS, SamplerConfig(steps=100, rho=1.0, integrator="ab2"), path=True).path
    found = diagnostics.speeds(run, path, grid, x0, 0)
    assert all_finite(found)
    assert found["energy"]["straight"] <= found["energy"]["teacher"]
    if limit is None:
        assert found["bound"] is found["network"] is found["targets"] is None
        return
    assert found["targets"]["above"] == 0
    assert 0.9 < found["targets"]["max_ratio"] <= 1 + 1e-6
    assert found["network"]["max_ratio"] == pytest.approx(2, rel=0.02)
    assert found["network"]["above"] == pytest.approx(0.1, abs=0.011)


def test_the_bound_on_targets_would_notice_faster_ones(monkeypatch):
    pair = Telegraph.pair
    monkeypatch.setattr(Telegraph, "pair", lambda *args: [1.05 * v for v in pair(*args)])
    path = torch.zeros(11, 4, *SHAPE)
    found = diagnostics.speeds(run_of(lambda x, t, y: 0 * x), path, time_grid(10, 1.0), ToyData().x, 0)
    assert found["targets"]["above"] > 0


def test_near_the_data_only_the_diffusion_grows():
    run = run_of(lambda x, t, y: x + 3)
    found = diagnostics.near_data(run, ToyData().x, ToyData().y, 0)
    sigma = 2 / math.sqrt(25)
    for t, value in zip(found["times"], found["diffusion"], strict=True):
        assert value == pytest.approx(sigma / (2 * math.sqrt(t)), rel=0.1)
    assert found["exponents"]["diffusion"] == pytest.approx(-0.5, abs=0.01)
    assert abs(found["exponents"]["network"]) < 0.05
    assert max(found["targets"]) <= 3


def test_path_errors_by_hand():
    """One number, two students' intervals: the teacher bends by 1 in the middle of the first, the student ends 3 off."""
    grid = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64)
    teacher = torch.tensor([0.0, 2.0, 2.0, 2.0, 2.0]).view(5, 1, 1)
    student = torch.tensor([0.0, 2.5, 5.0]).view(3, 1, 1)
    found = diagnostics.path_errors(teacher, student, grid)
    assert [float(v) for v in (found.endpoint, found.path, found.nodes, found.curvature)] == [3, 3, 3, 1]
    same = diagnostics.path_errors(teacher, teacher[::2], grid)
    assert [float(v) for v in (same.endpoint, same.path, same.nodes, same.curvature)] == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="3 steps do not divide the 4"):
        diagnostics.path_errors(teacher, torch.zeros(4, 1, 1), grid)


def test_path_error_is_at_most_the_sum_of_its_terms():
    source = generator(0, "paths")
    teacher, student = torch.randn(21, 50, 6, generator=source), torch.randn(6, 50, 6, generator=source)
    found = diagnostics.path_errors(teacher, student, time_grid(20, 1.5))
    assert (found.path <= found.nodes + found.curvature + 1e-6).all()
    assert (found.path >= found.nodes - 1e-6).all()
    summary = found.summary()
    x, y = found.endpoint.numpy(), found.path.numpy()
    assert summary["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert summary["slope"] == pytest.approx(np.polyfit(x, y, 1)[0])
    rank = [np.argsort(np.argsort(v)) for v in (x, y)]
    assert summary["spearman"] == pytest.approx(np.corrcoef(*rank)[0, 1])
    constant = diagnostics.PathErrors(*[torch.ones(4)] * 4).summary()
    assert constant["pearson"] is constant["slope"] is None


@pytest.mark.parametrize(("steps", "fine"), [(1, 100), (4, 100), (3, 102), (100, 100), (150, 150)])
def test_the_fine_grid_is_a_multiple_of_the_students(steps, fine):
    assert diagnostics.fine_steps(steps) == fine


def test_orders_of_a_smooth_network_are_found(monkeypatch):
    monkeypatch.setattr(diagnostics, "STEP_COUNTS", (10, 20, 40))
    found = diagnostics.step_errors(run_of(lambda x, t, y: 2 * torch.cos(3 * t) * x), LABELS, 0)
    assert found["exponents"]["euler"] == pytest.approx(-1, abs=0.15)
    assert found["exponents"]["ab2"] == pytest.approx(-2, abs=0.2)


def test_guidance_counts_what_is_lost():
    """u_cond - u_uncond = 1e38: w = 4 and more overflow float32, unless the speed is limited."""
    run = run_of(lambda x, t, y: torch.where((y == 2).view(-1, 1, 1, 1), 0.0, 1e38).expand_as(x))
    seen = []

    def evaluator(images, labels):
        assert images.isfinite().all()
        seen.append(len(images))
        return {"frechet": 1.0}

    rows = diagnostics.guidance(run, evaluator, LABELS, 3.0, 0, 500)
    assert [(row["w"], row["max_speed"]) for row in rows[:2]] == [(0.0, None), (1.0, None)]
    free, limited = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert free[0]["not_finite"] == 0
    assert free[-1]["not_finite"] == 24 * math.prod(SHAPE)
    assert free[-1]["frechet"] is free[-1]["out_of_range"] is None
    assert all(row["not_finite"] == 0 and row["frechet"] == 1 for row in limited)
    assert limited[-1]["out_of_range"] > 0.9
    assert all_finite(rows)
    assert {row["max_speed"] for row in diagnostics.guidance(run, evaluator, LABELS, None, 0, 500)} == {None}


@by_name
def test_sensitivity_of_a_linear_flow(process):
    """dx/dt = x: the change of the noise shrinks by the steps' own factor, in every direction."""
    ratios = diagnostics.sensitivity(run_of(lambda x, t, y: x, process), torch.arange(530) % 2, 0)
    assert ratios.shape == (530,)
    assert ratios.max() == pytest.approx(math.exp(-1), rel=5e-3)
    assert ratios.max() - ratios.min() < 1e-3


@by_name
def test_distance_from_the_exact_start(process):
    means = torch.randn(3, *SHAPE, generator=generator(0, "means"))
    truth = ExactStart(None, process, means)
    run = run_of(lambda x, t, y: truth.exact(x, y) * torch.where(y == 2, 1.3, 1.1).view(-1, 1, 1, 1), process)
    found = diagnostics.start_error(run, means, LABELS, 0)
    assert found == pytest.approx({"class": 0.1, "no_class": 0.3}, rel=1e-3)


@pytest.mark.parametrize("process", ["telegraph", "planar", "quad"])
@pytest.mark.parametrize("a", [1.0, 5.0, 40.0])
def test_coordinate_laws_against_the_reference_sampler(process, a):
    """Kolmogorov-Smirnov with n = 40000 (20000 pairs of planar, 10000 fours of quad count): 2.3 / sqrt(n) is the level 5e-5."""
    c = math.sqrt(a)
    k = reference.kac_noise(torch.ones(1), (40_000,), process, a, c, seed=1).abs().flatten().sort().values
    x = torch.linspace(0, 1.1 * c, 700, dtype=torch.float64)
    empirical = torch.searchsorted(k, x * (1 + 1e-12), right=True).double() / len(k)
    law = 2 * diffusion_limit.coordinate_cdf(process, x, a, c) - 1
    assert (empirical - law).abs().max() < 2.3 / math.sqrt(10_000 if process == "quad" else 20_000)
    assert law[0] == pytest.approx(0, abs=1e-9)
    assert law[-1] == 1
    assert (law.diff() > -1e-9).all()


def test_diffusion_limit():
    """The rate, and the distance at a = 1 against that of a large sample (whose own error is below 0.005)."""
    found = diffusion_limit.diffusion_limit()
    for process in ("telegraph", "planar", "quad"):
        assert found["exponents"][process] == pytest.approx(-1, abs=0.03)
        c = 2**0.5 if process == "quad" else 1.0
        k = reference.kac_noise(torch.ones(1), (100_000,), process, 1.0, c, seed=2).flatten().sort().values
        normal = torch.special.ndtri((torch.arange(len(k), dtype=torch.float64) + 0.5) / len(k))
        assert found[process][0] == pytest.approx((k - normal).abs().mean().item(), abs=0.008)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{process: run folder}: a teacher of each process, the telegraph's with students of 2 and 1 steps."""
    made = {}
    for process in PROCESSES:
        made[process.name] = tmp_path_factory.mktemp("runs") / process.name
        argv = ["--run", str(made[process.name]), "--process", process.name, *TINY]
        assert train.main(argv) == 0
    chain = ["--stages", "4,2,1", "--steps", "2", "2", "--optim.batch-size", "16"]
    assert distill.main([str(made["telegraph"]), *chain]) == 0
    return made


@by_name
def test_the_command_measures_draws_and_prints(runs, process, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(diagnostics, "REFERENCE_STEPS", 12)
    monkeypatch.setattr(diagnostics, "STEP_COUNTS", (2, 4))
    monkeypatch.setattr(diagnostics, "SAMPLING_STEPS", 3)
    monkeypatch.setattr(diffusion_limit, "RATES", (1, 10, 100, 1000))
    out = tmp_path / "out"
    assert diagnose.main([str(runs[process.name]), *FEW, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "nan" not in printed
    report = json.loads((out / "diagnosis.json").read_text())
    assert all_finite(report)
    pictures = {"speeds", "steps", "sensitivity", "diffusion-limit", "guidance"}
    networks = ["teacher"]
    if process.name == "telegraph":
        networks += ["student-2", "student-1"]
        pictures.add("students")
    assert list(report["sensitivity"]) == networks
    assert list(report["students"]) == networks[1:]
    assert {path.stem for path in out.glob("*.png")} == pictures
    for picture in pictures:
        with Image.open(out / f"{picture}.png") as image:
            assert min(image.size) > 200
    identity = report["guidance"]["evaluator"]
    energies = report["energies"]
    assert (energies["num"], energies["evaluator"]) == (20, identity)
    assert all(-1 <= energies[name][how] <= 1 for name in ("nearest", "confidence") for how in ("all", "within"))
    assert energies["energy"]["quantile_5"] <= energies["energy"]["mean"] <= energies["energy"]["quantile_95"]
    assert identity["digest"] == json.loads((evaluators.FOLDER / "index.json").read_text())["digits"]["digest"]
    assert f"evaluator of the Fréchet distances: digits, shipped, {identity['digest'][:12]}" in printed
    limits = {row["max_speed"] for row in report["guidance"]["rows"]}
    if process.name == "gaussian":
        assert "no speed limit" in printed
        assert limits == {None}
    else:
        assert report["speeds"]["targets"]["above"] == 0
        assert limits == {None, process.max_target_speed()}


def test_by_default_it_writes_into_the_run(runs, monkeypatch, capsys):
    monkeypatch.setattr(diagnostics, "REFERENCE_STEPS", 4)
    monkeypatch.setattr(diagnostics, "STEP_COUNTS", (1, 2))
    monkeypatch.setattr(diffusion_limit, "RATES", (1, 10, 100, 1000))
    run = runs["planar"]
    assert diagnose.main([str(run), *FEW[:4], "--guidance-num", "0", "--energy-num", "0"]) == 0
    report = json.loads((run / "diagnosis" / "diagnosis.json").read_text())
    assert report["guidance"] is None
    assert report["energies"] is None
    assert not (run / "diagnosis" / "guidance.png").exists()


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        diagnose.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "python -m distillkac.diagnose" in text
    assert not re.search(r"│ --\S+[^│]*│\n│\s+\(default", text)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["TMP"], "is no run folder"),
        (["RUN/student-1"], "is itself a student; diagnose the run of its teacher"),
        (["RUN", "--num", "3"], "num must be at least 8, got 3"),
        (["RUN", "--guidance-num", "1"], "guidance_num must be 0 or at least 2, got 1"),
        (["RUN", "--num", "8", "--reference-num", "9"], "reference_num 9 is more than num 8"),
        (["RUN", *FEW, "--max-speed", "-1"], "max_speed must be positive and finite, got -1"),
    ],
)
def test_mistakes_get_one_sentence(runs, tmp_path, capsys, argv, sentence):
    argv = [word.replace("RUN", str(runs["telegraph"])).replace("TMP", str(tmp_path)) for word in argv]
    assert sentence in refusal(diagnose, argv, capsys)
