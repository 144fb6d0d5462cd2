"""Which trainings have the same bits: any process of one's own; with `exact_parts`, any number of threads and processes."""

import pytest
import torch

from distillkac import train
from distillkac.runs import checkpoints
from distillkac.runs.optim_config import OptimConfig
from distillkac.training.exact_sums import PairwiseSum, check
from distillkac.training.loop import parts_of_process
from tests.toys import TINY_OPTIONS
from tests.training.test_crashes import same
from tests.training.test_distributed import DISTIL, STUDENTS, losses, on_a_cpu, processes

NETWORK = [*TINY_OPTIONS, "--optim.batch-size", "8", "--optim.log-every", "1"]
OPTIONS = ["--steps", "50", "--preview", "0", *NETWORK]
EXACT = ["--optim.exact-parts", "4"]


def equal(first, second):
    """To the bit: weights, average, optimizer, losses."""
    assert same(*(checkpoints.load_state(folder) for folder in (first, second)))
    assert losses(first) == losses(second)


def test_layers_with_running_statistics_are_refused_where_each_process_would_have_its_own():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    check(network, 1)
    check(torch.nn.Sequential(torch.nn.BatchNorm2d(2, track_running_stats=False)), 2)
    with pytest.raises(ValueError, match=r"optim.exact_parts on 2 processes: 1 \(BatchNorm2d\) keeps statistics"):
        check(network, 2)


@pytest.mark.parametrize("process", ["telegraph", pytest.param("planar", marks=pytest.mark.slow)])
@pytest.mark.one_alignment
def test_fifty_steps_are_the_same_in_any_process(forked, tmp_path, threads, process):
    def options(name):
        return ["--run", str(tmp_path / name), "--process", process, *OPTIONS]

    for name, count in (("fresh", 1), ("two", 2)):
        answer = forked(command="train", argv=options(name), threads=count)
        assert answer["code"] == 0, answer["output"]
    threads(1)
    assert train.main(options("here")) == 0
    equal(tmp_path / "fresh", tmp_path / "here")
    # With other threads torch sums in another order.
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "here"), rtol=1e-4, atol=0)
    assert len(losses(tmp_path / "here")) == 50


@pytest.mark.parametrize("process", ["telegraph", pytest.param("planar", marks=pytest.mark.slow)])
def test_fifty_steps_are_the_same_for_any_number_of_threads(forked, tmp_path, process):
    options = ["--process", process, *OPTIONS, *EXACT]
    for count in (1, 2, 4):
        answer = forked(command="train", argv=["--run", str(tmp_path / str(count)), *options], threads=count)
        assert answer["code"] == 0, answer["output"]
    equal(tmp_path / "1", tmp_path / "2")
    equal(tmp_path / "1", tmp_path / "4")
    assert len(set(losses(tmp_path / "1"))) == 50


@on_a_cpu
@pytest.mark.parametrize(("count", "steps"), [(2, 10), pytest.param(4, 50, marks=pytest.mark.slow)])
def test_processes_train_and_distil_as_one_to_the_bit(forked, tmp_path, count, steps):
    """The same on one process and on several; students too, with the two networks of inverse distillation."""
    options = ["--preview", "0", *NETWORK, *EXACT, "--steps", str(steps)]
    answer = forked(command="train", argv=["--run", str(tmp_path / "1"), *options], threads=2)
    assert answer["code"] == 0, answer["output"]
    processes(count, "distillkac.train", "--run", str(tmp_path / str(count)), *options)
    equal(tmp_path / "1", tmp_path / str(count))
    answer = forked(command="distill", argv=[str(tmp_path / "1"), *DISTIL, *EXACT], threads=1)
    assert answer["code"] == 0, answer["output"]
    processes(count, "distillkac.distill", str(tmp_path / "1"), *DISTIL, *EXACT, "--out", str(tmp_path / "students"))
    for student in STUDENTS:
        equal(tmp_path / "1" / student, tmp_path / "students" / student)


def test_exact_parts_learn_what_the_whole_batch_does(tmp_path):
    """Up to rounding the same gradient, and the same images and noise."""
    for name, options in (("parts", EXACT), ("whole", [])):
        assert train.main(["--run", str(tmp_path / name), *NETWORK, "--steps", "4", "--preview", "0", *options]) == 0
    torch.testing.assert_close(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-4, atol=0)


@pytest.mark.parametrize("terms", [1, 2, 8, 64])
def test_a_pairwise_sum_is_a_tree(terms):
    values = torch.randn(terms, 5, generator=torch.Generator().manual_seed(0))

    def tree(part):
        half = len(part) // 2
        return part[0] if len(part) == 1 else tree(part[:half]) + tree(part[half:])

    sums = PairwiseSum()
    for value in values:
        sums.add(value.clone())
    assert torch.equal(sums.total, tree(values))


def test_the_threads_of_the_user_are_given_back(tmp_path, threads):
    threads(2)
    assert train.main(["--run", str(tmp_path), *NETWORK, *EXACT, "--steps", "1", "--preview", "0"]) == 0
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exact_parts": 3}, r"exact_parts must be a power of two \(1, 2, 4, ...\), got 3"),
        ({"exact_parts": 0}, "exact_parts must be at least 1, got 0"),
        ({"exact_parts": 16}, "batch_size 8 is not a multiple of exact_parts 16"),
        ({"exact_parts": 4, "accumulate": 2}, "omit optim.accumulate and optim.shard"),
        ({"exact_parts": 4, "shard": True}, "omit optim.accumulate and optim.shard"),
    ],
)
def test_parts_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(batch_size=8, **options)


def test_parts_are_shared_out_whole():
    assert [parts_of_process(OptimConfig(exact_parts=4), processes) for processes in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(ValueError, match=r"exact_parts must be a multiple of the number of processes \(8\), got 4"):
        parts_of_process(OptimConfig(exact_parts=4), 8)
