"""When a training is measured, what compares, and what is a plateau."""

import torch
from PIL import Image

from distillkac import report
from distillkac.runs import checkpoints
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.plots import save_curves
from distillkac.training import measuring
from distillkac.training.measuring import Measuring, count_of
from distillkac.training.plateau import plateau


def noisy(values, spread, seed):
    source = torch.Generator().manual_seed(seed)
    return [value + spread * float(torch.randn((), generator=source)) for value in values]


def test_a_plateau_is_told_from_a_fall():
    falling, halving, flat = [10 - k for k in range(8)], [0.5**k for k in range(8)], [1.0] * 8
    assert not plateau(falling)
    assert not plateau(halving)
    assert not plateau(flat[:7])  # too few to tell
    assert plateau(flat)
    assert plateau([1 + 0.1 * k for k in range(8)])  # it gets worse
    # Steps as large as the noise are seen in nearly all cases, and a level in nearly all.
    found = [plateau(noisy([10 - k for k in range(8)], 1.0, seed)) for seed in range(200)]
    assert sum(found) < 20
    found = [plateau(noisy(flat, 0.3, seed)) for seed in range(200)]
    assert sum(found) > 160
    # Only the last measurements count.
    assert plateau([100.0, 50.0, 20.0, *flat])


def measured(optim, spent=(), clock=None):
    made = Measuring(optim, 100, 1000, lambda: None, lambda average: {"frechet": 1.0})
    made.spent, made.first_step, made.started, made.before = sum(spent), 0, 0.0, 0.0
    made.lines = [{"step": k, "measured": {"frechet": 1.0, "images": 100}} for k, _ in enumerate(spent)]
    return made


def test_the_clock_bounds_what_is_measured(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])
    optim = OptimConfig(batch_size=10, measure_every=50, measure_images=100)
    # 50 steps of 10 images are 1500 evaluations: 1000 evaluations and half as much again take as long as they did.
    made, now[0] = measured(optim), 30.0
    assert not made.is_time(50)
    assert "step 50: measuring 100 images takes about 30 s, more than is left of 5%" in capsys.readouterr().out
    assert not made.is_time(100)
    assert capsys.readouterr().out == ""  # said once
    made, now[0] = measured(optim), 30.0
    assert made.is_time(1000)  # the same time for twenty times the steps
    # Then what the measurements took: two of 2 s are spent, and a third makes 6 s.
    for elapsed, due in ((119.0, False), (121.0, True)):
        made, now[0] = measured(optim, (2.0, 2.0)), elapsed
        assert made.is_time(100) is due


def test_as_many_images_as_the_training_pays_for():
    assert count_of(OptimConfig(batch_size=128, measure_every=250), 10) == 288
    assert count_of(OptimConfig(batch_size=128, measure_every=10), 10) == 100
    assert count_of(OptimConfig(batch_size=256, measure_every=100_000), 10) == 5000
    assert count_of(OptimConfig(measure_every=10, measure_images=7), 10) == 7


def test_figures_of_other_numbers_of_images_do_not_compare():
    made = measured(OptimConfig(measure_every=1), (1.0,) * 3)
    made.lines[0]["measured"] = {"frechet": 0.1, "images": 7}
    assert made.values() == [1.0, 1.0]
    made.lines[-1]["measured"]["frechet"] = 0.9
    assert made.improved()


def test_the_page_names_the_best_of_those_that_compare(tmp_path):
    log = checkpoints.MetricsLog(tmp_path)
    for step, images, frechet in ((1, 200, 0.1), (2, 40, 0.4), (3, 40, 0.3)):
        log.append({"step": step, "measured": {"images": images, "frechet": frechet}})
    (told,) = report._measured(tmp_path)
    assert "Measured 2 times on the way, by 40 images each: least Fréchet distance 0.300 at step 3 (best/" in told
    assert "last 0.300 at step 3.</p>" in told  # what measures may not look for copies


def test_curves_show_what_was_measured(tmp_path):
    lines = [{"step": k, "loss": 1.0, "grad_norm": 1.0, "lr": 0.1} for k in range(1, 4)]
    sizes = []
    for more in ([], [{"step": 2, "measured": {"frechet": 2.0, "frechet_train": 1.0}}]):
        log = checkpoints.MetricsLog(tmp_path)
        for line in [*lines, *more]:
            log.append(line)
        save_curves(tmp_path / checkpoints.METRICS, tmp_path / "curves.png")
        sizes.append(Image.open(tmp_path / "curves.png").width)
    assert sizes[1] > sizes[0]
