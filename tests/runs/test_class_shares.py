"""Classes of images that are measured against real ones: as often as these have them."""

import dataclasses
import warnings

import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from distillkac.base.chi_square import chance
from distillkac.data import DataConfig, load
from distillkac.data.config import Fingerprint
from distillkac.runs import RunConfig, class_labels
from distillkac.runs.class_shares import drawn_as, reference_labels


def config(test, train=None):
    names = tuple(f"class {k}" for k in range(len(train or test)))
    known = Fingerprint(tuple(train or test), tuple(test), "", "")
    return dataclasses.replace(RunConfig(), class_names=names, fingerprint=known)


@pytest.mark.parametrize("counts", [(90, 9, 1), (1000, 1, 333, 17), (5, 0, 50, 45), (892, 1135, 1032, 1010, 980)])
def test_the_first_n_have_each_class_as_often_as_the_split(counts):
    labels, share = reference_labels(config(counts), 500), torch.tensor(counts) / sum(counts)
    assert labels.dtype == torch.int64
    for n in (10, 37, 500):
        found = labels[:n].bincount(minlength=len(counts))
        assert (found - n * share).abs().max() < 1 + 1e-4, (n, found)
        assert not found[torch.tensor(counts) == 0].any()
    assert torch.equal(reference_labels(config(counts), 200), labels[:200])


@pytest.mark.parametrize("counts", [(7, 7, 7), (55, 45), (42, 51, 45, 58, 61, 50, 55, 48, 42, 48), (0, 0, 0), (12,)])
def test_classes_that_may_be_equally_frequent_come_in_turn(counts):
    assert torch.equal(reference_labels(config(counts), 25), class_labels(config(counts), 25))
    assert drawn_as(config(counts)) == f"classes in turn ({len(counts)})"


def test_of_the_digits_and_of_data_that_are_not_counted():
    digits = load(DataConfig(), "test")
    made = dataclasses.replace(RunConfig(), class_names=digits.class_names, fingerprint=digits.fingerprint)
    for one in (made, dataclasses.replace(made, fingerprint=None), config((), (1,) * 10)):
        assert reference_labels(one, 30).tolist() == [*range(10)] * 3


def test_each_split_has_its_own_shares():
    made = config((1, 99), (800, 200))
    assert reference_labels(made, 100).sum() == 99
    assert reference_labels(made, 100, "train").sum() == 20
    assert drawn_as(made, "train") == "classes as often as the train split has them (2)"


def test_a_class_without_real_images_is_not_drawn_even_where_chance_might_be_why():
    assert set(reference_labels(config((3, 0, 2)), 50).tolist()) == {0, 2}


def test_fewer_images_than_classes_are_of_any_and_it_is_said():
    with pytest.warns(UserWarning, match="10 images are not one of each of the 50 classes"):
        few = reference_labels(config((20,) * 50), 10)
    assert len(set(few.tolist())) == 10
    assert few.max() > 20  # not the first ones
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reference_labels(config((20,) * 50), 50).tolist() == [*range(50)]


# ------------------------------------------------------------------------------------------------- the chi-square test


@pytest.mark.parametrize("counts", [(10, 20, 30), (5, 5), (1000, 1100, 950, 1020), (3, 0, 9)])
def test_chance_against_scipy(counts):
    others = tuple(reversed([c + 4 for c in counts]))
    assert chance(counts, others) == pytest.approx(
        chi2_contingency([counts, others], correction=False).pvalue, rel=1e-9
    )
    assert chance(counts, [1e15] * len(counts)) == pytest.approx(chisquare(counts).pvalue, rel=1e-6)
    assert chance(counts, [7 * c for c in counts]) == pytest.approx(1)


def test_chance_of_what_came_in_neither_and_of_no_table():
    assert chance((4, 0, 8), (9, 0, 2)) == chance((4, 8), (9, 2))
    assert chance((4,), (9,)) == chance((4, 0), (9, 0)) == 1
    for wrong in (((0, 0), (1, 1)), ((1, -1), (1, 1))):
        with pytest.raises(ValueError, match="two tables"):
            chance(*wrong)
