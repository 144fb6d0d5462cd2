"""The learning rate by step: warm-up, stable, decay; a run that is made longer before it decays."""

from dataclasses import replace
from itertools import pairwise

import pytest

from distillkac import train
from distillkac.runs import checkpoints
from distillkac.training.consistency import Schedule
from distillkac.training.fit import new_phase, new_schedule
from distillkac.training.learning_rate import learning_rate
from tests.toys import TINY_OPTIONS, optim, refusal, run_config, trainer
from tests.training.test_crashes import same


def test_it_stays_and_then_falls_as_one_minus_the_root():
    settings = optim(lr=2.0, warmup=4, lr_end=0.1, schedule="wsd", decay=0.25)
    rates = [learning_rate(step, 80, settings) for step in range(81)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert set(rates[3:61]) == {2.0}
    assert rates[65] == pytest.approx(2 * (0.1 + 0.9 * 0.5))  # a quarter of the decay: 1 - sqrt(1/4)
    assert all(late < early for early, late in pairwise(rates[60:]))
    assert rates[80] == pytest.approx(0.2)


def test_all_of_the_steps_may_be_decay():
    assert learning_rate(25, 100, optim(lr=1.0, warmup=0, lr_end=0.0, schedule="wsd", decay=1.0)) == 0.5


@pytest.mark.one_alignment
def test_a_run_made_longer_while_the_rate_is_stable_is_the_long_run(tmp_path):
    settings = optim(schedule="wsd", decay=0.25)
    short, long = (run_config(steps=steps, optim=settings) for steps in (8, 16))
    assert trainer(tmp_path / "long", long).fit().finished
    cut = trainer(tmp_path / "cut", short)
    batches = cut.batches()
    for _ in range(5):
        cut.advance(batches)
    cut.save(tmp_path / "cut")
    assert trainer(tmp_path / "cut", long).fit().finished
    assert same(*(checkpoints.load_state(tmp_path / name) for name in ("long", "cut")))
    assert new_schedule(short, long, 5) is None  # nothing to say of it


def test_what_is_said_of_a_run_made_longer_after_it_fell():
    settings = optim(schedule="wsd", lr=1e-3)
    before, now = run_config(steps=100, optim=settings), run_config(steps=200, optim=settings)
    said = new_schedule(before, now, 100)
    assert said.startswith("goes on at step 100 of 200 (before: of 100): its learning rate was 3.5")
    assert said.endswith("begins anew at 0.001, which falls from step 160 on")
    other = run_config(steps=200, optim=replace(settings, decay=0.8))
    assert new_schedule(now, other, 100).endswith("falling since step 40")


def test_the_phase_of_consistency_that_changes_with_the_steps_is_said():
    """Of six, over all steps: after 1500 of 3000 it is the fourth, of 6000 the second."""
    schedule = Schedule(0.5, 6, 0.1, 6000)
    assert new_phase(schedule, 3000, 1500).startswith("goes on in phase 2 of 6 of consistency (before: 4)")
    assert new_phase(schedule, 6000, 1500) is None
    assert new_phase(None, 3000, 1500) is None


def test_a_consistency_run_that_is_made_longer_says_so(tmp_path, capsys):
    options = ["--run", str(tmp_path / "run"), *TINY_OPTIONS, "--objective", "consistency", "--preview", "0"]
    options += ["--consistency.phases", "4", "--optim.batch-size", "8"]
    assert train.main([*options, "--steps", "2"]) == 0
    assert train.main([*options, "--steps", "8", "--resume"]) == 0
    assert "goes on in phase 2 of 4 of consistency (before: 4)" in capsys.readouterr().out


def test_what_does_not_go_together_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"optim\.decay must lie in \(0, 1\], got 0"):
        optim(schedule="wsd", decay=0.0)
    options = ["--run", str(tmp_path), *TINY_OPTIONS, "--optim.decay", "0.1"]
    assert "optim.decay 0.1 is of optim.schedule wsd, and this one is cosine: omit it" in refusal(
        train, options, capsys
    )
