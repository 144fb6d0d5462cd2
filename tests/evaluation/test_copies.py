"""Copies of training images are found, and told from what the data themselves hold."""

import pytest
import torch
from scipy.stats import fisher_exact

from distillkac.data import ImageDataset, read
from distillkac.evaluation import copies
from distillkac.evaluation.copies import Copies, chance
from distillkac.evaluation.training_figures import TrainingFigures
from distillkac.training.measuring import CHANCE
from tests.evaluation.small_sets import noise, small


@pytest.mark.parametrize(
    ("found", "images", "known", "held_out"),
    [(0, 50, 0, 40), (9, 384, 0, 360), (1, 384, 0, 2000), (30, 100, 25, 100), (50, 50, 3, 9)],
)
def test_the_chance_is_that_of_fishers_test(found, images, known, held_out):
    table = [[found, images - found], [known, held_out - known]]
    assert chance(found, images, known, held_out) == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def test_images_of_a_network_that_has_learned_by_heart_are_copies():
    train, test = small(count=80), small(count=60, seed=1)
    detector = Copies(train, test)
    assert detector.held_out == (0, 60)
    learned, _ = read(train, range(40))
    fresh = read(small(count=40, seed=2), range(40))[0]
    assert detector.count(noise(learned, 0.05)) == 40
    assert detector.count(fresh) == 0
    half = detector(torch.cat([noise(learned[:10], 0.05), fresh[:30]]))
    assert half["copying"] == 0.25
    assert half["copying_p"] < CHANCE
    # One of forty may be chance.
    assert detector(torch.cat([noise(learned[:1], 0.05), fresh[:39]]))["copying_p"] > CHANCE


def test_a_copy_is_nearer_than_a_third_of_the_second_distance():
    train = ImageDataset(torch.tensor([-0.5, 0.5, 1.0]).view(3, 1, 1, 1), torch.zeros(3).long(), ("all",))
    # At distances 0.24 and 0.76, 0.26 and 0.74.
    assert [Copies(train, train).count(torch.full((1, 1, 1, 1), -x)) for x in (0.26, 0.24)] == [1, 0]


def test_exact_copies_are_found_among_large_values():
    """Where |x|^2 - 2 x y + |y|^2 in float32 would be rounding alone."""
    x = 0.999 + 1e-3 * torch.rand(50, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    train = ImageDataset(x.clamp(max=1), torch.zeros(50, dtype=torch.int64), ("all",))
    assert Copies(train, train).count(x.clamp(max=1)) == 50


def test_duplicates_in_the_data_are_no_copying():
    """Each training image twice: both are equally near, so nothing is nearer to one than to all others. Held-out images that
    are training images count on the other side."""
    once = small(count=40)
    twice = ImageDataset(torch.cat([once.images] * 2), torch.cat([once.labels] * 2), once.class_names)
    assert Copies(twice, small(count=20, seed=1)).count(once.images) == 0
    leaky = Copies(once, ImageDataset(once.images[:20], once.labels[:20], once.class_names))
    assert leaky.held_out == (20, 20)
    assert leaky(once.images[:30])["copying_p"] == 1


def test_of_too_many_training_images_a_fixed_part_is_looked_through(monkeypatch):
    monkeypatch.setattr(copies, "VALUES", 20 * 3 * 6 * 4)
    train, test = small(count=80), small(count=30, seed=1)
    first, second = Copies(train, test), Copies(train, test)
    assert first.train.shape == (20, 72)
    assert torch.equal(first.train, second.train)
    assert first.count(train.images) == 20


def test_the_figures_of_a_training_are_those_of_the_evaluator_and_the_copies(quick, tmp_path, capsys):
    train, test = small(count=80), small(count=60, seed=1)
    figures = TrainingFigures(lambda: train, lambda: test, tmp_path)
    figures.prepare()
    assert "measuring by the evaluator trained here" in capsys.readouterr().out
    assert (tmp_path / "classifier.safetensors").exists()
    images, labels = read(train, range(60))
    found, expected = figures(images, labels), figures.evaluator(images, labels)
    assert {name: found[name] for name in found if "copying" not in name} == {
        name: expected[name] for name in ("frechet", "frechet_train", "accuracy", "diversity", "nn_ratio")
    }
    assert found["copying"] == 1
