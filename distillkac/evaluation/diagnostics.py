"""What the theory of finite-speed flows claims, measured (docs/method.md); `python -m distillkac.diagnose` runs it all.

Every measure returns numbers that JSON can hold, all finite; None stands for what is undefined, as is the speed limit of
the Gaussian process. Root mean squares (RMS) are over the D numbers of an image unless something else is said.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from distillkac.base.random import derive_seed, normal_rows
from distillkac.base.tensors import column
from distillkac.evaluation.energy_ranks import correlation, spearman
from distillkac.flow.exact_start import ExactStart
from distillkac.flow.fields import null_class
from distillkac.flow.integrators import integrate
from distillkac.flow.patches import lengths
from distillkac.flow.processes import Gaussian
from distillkac.ops.schedules import f_schedule, g_schedule
from distillkac.runs.run import Run
from distillkac.runs.sampler import Trained
from distillkac.runs.sampling import CPU_PIXELS, SamplerConfig, field_of, generate

FINE_STEPS = 100  # the teacher's path, at least as fine as this
REFERENCE_STEPS, STEP_COUNTS = 400, (5, 10, 20, 40, 80)
SAMPLING_STEPS = 20  # the teacher as it is sampled by default
NEAR_TIMES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
OUT_OF_RANGE, PERTURBATION = 1.05, 1e-3


def rms(x: torch.Tensor, first: int = 1) -> torch.Tensor:
    """Root mean square over all dimensions from number `first` on."""
    return x.double().square().flatten(first).mean(-1).sqrt()


def exponent(x, y) -> float | None:
    """Slope of log y over log x by least squares, None if an y is not positive."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if (y > 0).all() else None


def ab2_velocities(path: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The velocities (N, n, ...) at grid[:-1] that made an AB-2 path (N + 1, n, ...): docs/method.md, eq. 11, for u_i."""
    h = -grid.diff()
    u = [(path[0] - path[1]) / h[0]]
    for i in range(1, len(h)):
        r = h[i] / (2 * h[i - 1])
        u.append(((path[i] - path[i + 1]) / h[i] + r * u[-1]) / (1 + r))
    return torch.stack(u)


def kinetic_energy(u: torch.Tensor, grid: torch.Tensor) -> float:
    """1/2 integral ||u||^2 dt / D, mean over samples, of velocities (N, n, ...) that hold from grid[i] to grid[i + 1]."""
    return float((-grid.diff() @ rms(u, 2).square()).mean()) / 2


def speeds(teacher: Run, path: torch.Tensor, grid: torch.Tensor, x0: torch.Tensor, seed: int) -> dict:
    """|u| along the teacher's AB-2 path and of drawn targets, against max |u| = |f'| max |x0| + g' c (eq. 9).

    path: (N + 1, n, ...) on grid (N + 1,). x0: (m, ...) data. Energies as in `kinetic_energy`; `straight`, that of straight
    lines between the ends, is the least possible, and `targets`, the mean of ||u||^2 / 2D, exceeds every exact flow.
    """
    process, t = teacher.process, grid[:-1]
    u = ab2_velocities(path, grid)
    speed = lengths(u.flatten(0, 1), process.speed_norm).reshape(len(u), -1)
    x0 = x0.repeat(8, *[1] * (x0.dim() - 1))
    times = (torch.arange(len(x0), dtype=torch.float64) + 0.5) / len(x0)
    _, targets = process.pair(x0, times, derive_seed(seed, "targets"))
    report = {
        "times": t.tolist(),
        "mean": speed.mean(1).tolist(),
        "max": speed.amax(1).tolist(),
        "energy": {
            "teacher": kinetic_energy(u, grid),
            "straight": float(rms(path[0] - path[-1]).square().mean()) / 2,
            "targets": float(rms(targets, 0).square()) / 2,
        },
    }
    if isinstance(process, Gaussian):
        return report | {"bound": None, "network": None, "targets": None}
    largest = float(lengths(x0, process.speed_norm).max())

    def bound(t):
        return f_schedule(t, process.f)[1].abs() * largest + g_schedule(t, process.g)[1] * process.c

    def ratios(speed, t):
        ratio = speed.double() / bound(t)[:, None]
        above = float((ratio > 1 + 1e-5).double().mean())  # float32 rounds
        return {"count": ratio.numel(), "above": above, "max_ratio": float(ratio.max())}

    drawn = ratios(lengths(targets, process.speed_norm).flatten(1), times)
    return report | {"bound": bound(t).tolist(), "network": ratios(speed, t), "targets": drawn}


def near_data(teacher: Run, x0: torch.Tensor, y: torch.Tensor, seed: int) -> dict:
    """RMS velocity as t -> 0: network, targets, and a diffusion with x_t = x_0 + sigma sqrt(t) z, whose targets
    sigma z / (2 sqrt(t)) have no bound. sigma: the process' limit_std. x0: (n, ...), y: (n,)."""
    process, sigma = teacher.process, teacher.process.limit_std
    rows: dict[str, list[float]] = {"network": [], "targets": [], "diffusion": []}
    for i, t in enumerate(NEAR_TIMES):
        x, u = process.pair(x0, torch.full((len(x0),), t, dtype=torch.float64), derive_seed(seed, "near data", i))
        z = normal_rows(len(x0), tuple(x0.shape[1:]), derive_seed(seed, "diffusion", i))
        answer, diffusion = network_velocity(teacher, x, t, y), sigma * z / (2 * math.sqrt(t))
        for row, v in zip(rows.values(), (answer, u, diffusion), strict=True):
            row.append(float(rms(v, 0)))
    return {"times": list(NEAR_TIMES), **rows, "exponents": {name: exponent(NEAR_TIMES, v) for name, v in rows.items()}}


@torch.no_grad()
def network_velocity(run: Run, x: torch.Tensor, t: float, y: torch.Tensor) -> torch.Tensor:
    """The unguided network at time t, in blocks. x: (n, ...), y: (n,). Returns like x, on the CPU."""
    answers = []
    for part, labels in zip(x.split(_block(run)), y.split(_block(run)), strict=True):
        times = torch.full((len(part),), t, dtype=torch.float32, device=run.device)
        answers.append(run.network(part.to(run.device), times, labels.to(run.device)).float().cpu())
    return torch.cat(answers)


def _block(run: Run) -> int:
    return max(1, CPU_PIXELS // (run.config.shape[1] * run.config.shape[2]))


@dataclass(frozen=True)
class PathErrors:
    """RMS distances of a student from its teacher, one number a sample, (n,) each.

    endpoint: at t = 0. path: the largest on the way, the student moving on straight lines. nodes: the largest at the
    student's own times. curvature: the largest distance of the teacher's path from its chords between these times.
    path <= nodes + curvature.
    """

    endpoint: torch.Tensor
    path: torch.Tensor
    nodes: torch.Tensor
    curvature: torch.Tensor

    def summary(self) -> dict:
        spread = float(self.endpoint.std())
        pearson = correlation(self.endpoint, self.path)
        slope = pearson * float(self.path.std()) / spread if pearson is not None else None
        return {
            **{name: float(getattr(self, name).mean()) for name in ("endpoint", "path", "nodes", "curvature")},
            "pearson": pearson,
            "spearman": spearman(self.endpoint, self.path),
            "slope": slope,
            "pearson_of_larger_term": correlation(torch.maximum(self.nodes, self.curvature), self.path),
            "curvature_is_larger": float((self.curvature > self.nodes).double().mean()),
        }


def path_errors(teacher: torch.Tensor, student: torch.Tensor, grid: torch.Tensor) -> PathErrors:
    """teacher: (N + 1, n, ...) on grid (N + 1,). student: (M + 1, n, ...) at every N/M-th of its times."""
    n, rest = divmod(len(grid) - 1, len(student) - 1)
    if rest:
        raise ValueError(f"the student's {len(student) - 1} steps do not divide the {len(grid) - 1} of the grid")
    error = rms(_chords(student, grid, n) - teacher, 2)
    bend = rms(_chords(teacher[::n], grid, n) - teacher, 2)
    return PathErrors(error[-1], error.amax(0), error[::n].amax(0), bend.amax(0))


def _chords(nodes: torch.Tensor, grid: torch.Tensor, n: int) -> torch.Tensor:
    """Straight lines between nodes (M + 1, ...) at every n-th time of the grid (M n + 1,): (M n + 1, ...)."""
    i = torch.arange(len(grid))
    k = (i // n).clamp(max=len(nodes) - 2)
    done = ((grid[k * n] - grid) / (grid[k * n] - grid[k * n + n])).float()
    return torch.lerp(nodes[k], nodes[k + 1], column(done, nodes))


def fine_steps(num_steps: int) -> int:
    """The least multiple of a student's steps that is at least FINE_STEPS."""
    return num_steps * -(-FINE_STEPS // num_steps)


def step_errors(teacher: Run, labels: torch.Tensor, seed: int) -> dict:
    """RMS endpoint error of Euler and AB-2 in M steps against AB-2 in 400, same network, noise and exponent of the grid; over
    all samples, and its median over samples, which the few that end in another image do not move. labels: (n,)."""
    many = SamplerConfig(steps=REFERENCE_STEPS, model="teacher")
    rho = Trained.of(teacher.config).settle(many, teacher.name).rho

    def ends(steps, method):
        sampler = SamplerConfig(steps=steps, integrator=method, rho=rho, model="teacher")
        return generate(teacher, labels, sampler, seed).images

    finest, report = ends(REFERENCE_STEPS, "ab2"), {"steps": list(STEP_COUNTS), "reference_steps": REFERENCE_STEPS}
    for method in ("euler", "ab2"):
        errors = [ends(m, method) - finest for m in STEP_COUNTS]
        report[method] = [float(rms(e, 0)) for e in errors]
        report[f"{method}_median"] = [float(rms(e).median()) for e in errors]
    names = [name for name in report if name.startswith(("euler", "ab2"))]
    return report | {"exponents": {name: exponent(STEP_COUNTS, report[name]) for name in names}}


def guidance(
    teacher: Run, evaluator, labels: torch.Tensor, max_speed: float | None, seed: int, batch_size: int
) -> list:
    """What guidance weights do to samples, without and with `max_speed` (None: only without). labels: (n,)."""
    rows = []
    for limit in [None] if max_speed is None else [None, max_speed]:
        for w in WEIGHTS:
            sampler = SamplerConfig(steps=SAMPLING_STEPS, w=w, max_speed=limit, model="teacher")
            images = generate(teacher, labels, sampler, seed, batch_size).images
            whole = images.isfinite().flatten(1).all(1)
            row: dict[str, float | None] = {"out_of_range": None, "frechet": None, "w": w, "max_speed": limit}
            row["not_finite"] = int((~images.isfinite()).sum())
            if int(whole.sum()) > 1:
                row["out_of_range"] = float((images[whole].abs() > OUT_OF_RANGE).double().mean())
                row["frechet"] = evaluator(images[whole], labels[whole])["frechet"]
            rows.append(row)
    return rows


@torch.no_grad()
def sensitivity(run: Run, labels: torch.Tensor, seed: int) -> torch.Tensor:
    """||x_0(z + d) - x_0(z)|| / ||d|| for random d of length 1e-3 ||z||: (n,), for a run as it samples by default.

    No noise is drawn anew on the way. A mean over directions: a lower bound of the Lipschitz constant at z.
    """
    velocity, grid, method = field_of(run, Trained.of(run.config).sampler())
    shape, found = tuple(run.config.shape), []
    for first in range(0, len(labels), _block(run)):
        y = labels[first : first + _block(run)]
        # Blocks of one size, so that rounding is the same for both starts.
        y = nn.functional.pad(y, (0, _block(run) - len(y))).to(run.device)
        z = run.process.prior(len(y), shape, derive_seed(seed, "prior"), first, run.device)
        d = normal_rows(len(y), shape, derive_seed(seed, "perturbation"), first).to(z)
        d = (z + PERTURBATION * d * column(rms(z) / rms(d), z).to(z)) - z  # as float32 really adds it
        moved = integrate(velocity, z + d, y, grid, method) - integrate(velocity, z, y, grid, method)
        found.append((rms(moved) / rms(d)).cpu())
    return torch.cat(found)[: len(labels)]


@torch.no_grad()
def start_error(teacher: Run, means: torch.Tensor, labels: torch.Tensor, seed: int) -> dict:
    """RMS distance of the network from the exact velocity at t = 1 (exact_start.py), over the RMS of the exact one.

    means: as class_means gives them. labels: (n,). For images of a class and, where the network knows it, of none.
    """
    exact = ExactStart(teacher.network, teacher.process, means)
    x = teacher.process.prior(len(labels), tuple(teacher.config.shape), derive_seed(seed, "prior"))
    asked = {"class": labels}
    report: dict[str, float | None] = {"no_class": None}
    if teacher.config.label_drop > 0:
        asked["no_class"] = torch.full_like(labels, null_class(teacher.network))
    for name, y in asked.items():
        truth = exact.exact(x, y)
        report[name] = float(rms(network_velocity(teacher, x, 1.0, y) - truth, 0) / rms(truth, 0))
    return report
