"""The stored paths of a teacher: what they hold, who makes them, what becomes of files that are not theirs."""

import dataclasses
import errno
import threading

import numpy as np
import pytest
import torch

from distillkac.base.random import derive_seed, uniform_rows
from distillkac.distillation import stored_paths as module
from distillkac.distillation.stored_paths import FILE_ROWS, Paths, PathsConfig
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, time_grid
from distillkac.flow.processes import Telegraph
from tests.distillation.batches import Affine, every_process
from tests.toys import SHAPE

CPU, TELEGRAPH = torch.device("cpu"), Telegraph()


def about(process=TELEGRAPH, **changes) -> PathsConfig:
    config = PathsConfig("t", process.to_dict(), SHAPE, 2, 6, 3, 1.5, "ab2", 0.0, None, None, seed=4)
    return dataclasses.replace(config, **changes)


def stored(folder, config, count=20, network=None, process=TELEGRAPH, **places) -> Paths:
    velocity = GuidedVelocity(network or Affine(0.2, -0.3, 0.1), config.w)
    return Paths(folder, config, count, velocity, process, CPU, **places)


@every_process
def test_states_are_those_of_the_teachers_own_steps(process, tmp_path):
    teacher, config = Affine(0.2, -0.3, 0.1), about(process, w=1.5)
    paths = stored(tmp_path, config, network=teacher, process=process)
    index = torch.tensor([7, 0, 19, 7])
    states, y, w = paths(index)
    paths.close()
    assert states.shape == (4, 4, *SHAPE)
    assert y.tolist() == [1, 0, 1, 1]
    assert w is None
    for row, i in enumerate(index.tolist()):
        noise = process.prior(1, SHAPE, derive_seed(4, "path"), i)
        assert torch.equal(states[0, row], noise[0])
        expected = integrate(GuidedVelocity(teacher, 1.5), noise, y[row : row + 1], time_grid(6, 1.5), "ab2", True)
        # Half precision keeps eleven bits.
        torch.testing.assert_close(states[1:, row], expected[2::2, 0].detach(), rtol=2**-10, atol=1e-6)


def test_each_path_has_a_weight_of_its_own_where_w_is_an_input(tmp_path):
    teacher, config = Affine(0.2, -0.3, 0.1), about(w_max=3.0)
    paths = stored(tmp_path, config, network=teacher)
    states, y, w = paths(torch.arange(20))
    paths.close()
    assert torch.equal(w, 3 * uniform_rows(20, (1,), derive_seed(4, "path w")).flatten())
    expected = integrate(GuidedVelocity(teacher, w), states[0], y, time_grid(6, 1.5), "ab2")
    torch.testing.assert_close(states[-1], expected.detach(), rtol=2**-10, atol=1e-6)


def test_files_are_made_once_and_serve_other_students(tmp_path):
    first = stored(tmp_path, about())
    found, _, _ = first(torch.arange(20))
    first.close()

    def never(x, t, y):
        raise AssertionError("made again")

    second = stored(tmp_path, about(), network=never)
    assert torch.equal(second(torch.arange(20))[0], found)
    second.close()


def test_more_paths_are_the_same_ones_and_further_ones(tmp_path):
    few, many = stored(tmp_path / "few", about()), stored(tmp_path / "many", about(), FILE_ROWS + 5)
    index = torch.arange(20)
    assert torch.equal(few(index)[0], many(index)[0])
    assert torch.equal(many(torch.tensor([FILE_ROWS + 4]))[0][0], many._noise(range(516, 517))[0])
    few.close()
    many.close()
    assert len(list((tmp_path / "few").glob("*/states-*.npy"))) == 1


def test_processes_share_the_work_and_the_files(tmp_path):
    count, config = 3 * FILE_ROWS, about()
    ranks = [stored(tmp_path, config, count, rank=rank, ranks=2) for rank in range(2)]
    index, answers = torch.arange(0, count, 100), {}
    threads = [threading.Thread(target=lambda r=r, p=p: answers.update({r: p(index)[0]})) for r, p in enumerate(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for paths in ranks:
        paths.close()
    alone = stored(tmp_path / "alone", config, count)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], alone(index)[0])
    alone.close()


def test_two_distillations_may_make_the_same_file_at_the_same_time(tmp_path, monkeypatch):
    """The first is halfway through writing when the second writes the same file from its beginning to its end."""
    writing, written, save = threading.Event(), threading.Event(), np.save
    answers = {}

    def slowly(file, array):
        if threading.current_thread() is first._maker:
            file.write(b"half")
            writing.set()
            assert written.wait(60)
            file.seek(0)
        save(file, array)

    monkeypatch.setattr(module.np, "save", slowly)
    first, second = stored(tmp_path, about()), stored(tmp_path, about())
    waiting = threading.Thread(target=lambda: answers.update({1: first(torch.arange(20))[0]}))
    first._begin()
    assert writing.wait(60)
    waiting.start()
    answers[2] = second(torch.arange(20))[0]
    second.close()
    written.set()
    first._maker.join(60)
    assert first._problem is None
    waiting.join(60)
    first.close()
    assert torch.equal(answers[1], answers[2])
    again = stored(tmp_path, about())
    assert torch.equal(again(torch.arange(20))[0], answers[2])
    again.close()
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["paths.json", "states-000000.npy"]


def test_files_of_a_process_that_failed_are_made_by_another(tmp_path):
    """Its own problem may reach it only where the others' gradients are waited for, and they wait for its files."""

    def broken(x, t, y):
        raise MemoryError("too large")

    failed = stored(tmp_path, about(), 3 * FILE_ROWS, network=broken, rank=1, ranks=2)
    failed._begin()
    failed._maker.join(60)
    paths = stored(tmp_path, about(), 3 * FILE_ROWS, rank=0, ranks=2)
    assert torch.isfinite(paths(torch.tensor([FILE_ROWS]))[0]).all()  # file 1 is of the other
    paths.close()


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": "u"},
        {"process": Telegraph(9.0)},
        {"num_steps": 12},
        {"num_states": 1},
        {"rho": 2.0},
        {"integrator": "euler"},
        {"w": 1.0},
        {"w_max": 1.0},
        {"means": "m"},
        {"seed": 5},
        {"classes": 3},
        {"shift": 2.0},
        {"precision": "bf16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_paths_have_another_folder(change):
    assert about(**change).name != about().name


def test_what_stops_the_maker_stops_whoever_waits(tmp_path):
    def broken(x, t, y):
        raise MemoryError("too large")

    with pytest.raises(MemoryError, match="too large"):
        stored(tmp_path, about(), network=broken)(torch.arange(3))
    with pytest.raises(FloatingPointError, match="not finite"):
        stored(tmp_path, about(), network=lambda x, t, y: x * float("nan"))(torch.arange(3))
    assert not list(tmp_path.glob("*/states-*.npy"))


def test_where_there_is_no_space_that_is_said_and_nothing_is_left(tmp_path, monkeypatch):
    def full(file, array):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    paths = stored(tmp_path, about())
    with monkeypatch.context() as patch:
        patch.setattr(module.np, "save", full)
        with pytest.raises(OSError, match=r"states-000000\.npy: cannot be written \(No space"):
            paths(torch.arange(3))
    assert [path.name for path in tmp_path.glob("*/*")] == ["paths.json"]
    assert torch.isfinite(stored(tmp_path, about())(torch.arange(3))[0]).all()


def test_closing_ends_the_making_before_it_is_done(tmp_path):
    entered, go_on = threading.Event(), threading.Event()

    def slow(x, t, y):
        entered.set()
        go_on.wait(60)
        return 0 * x

    paths = stored(tmp_path, about(), 50 * FILE_ROWS, network=slow)
    paths._begin()
    assert entered.wait(60)
    threading.Timer(0.2, go_on.set).start()
    paths.close()
    assert len(list(tmp_path.glob("*/states-*.npy"))) <= 1
    assert not paths._maker.is_alive()


@pytest.mark.parametrize(
    "content",
    [b"", b"no array", b"\x93NUMPY\x01\x00", np.zeros((1, 2), np.float16), np.zeros((3, FILE_ROWS, *SHAPE))],
    ids=["empty", "text", "cut", "shape", "dtype"],
)
def test_a_damaged_file_is_named(tmp_path, content):
    paths = stored(tmp_path, about())
    place = paths._path_of(0)
    place.parent.mkdir()
    if isinstance(content, bytes):
        place.write_bytes(content)
    else:
        with place.open("wb") as file:
            np.save(file, content)
    with pytest.raises(ValueError, match=r"states-000000\.npy is damaged: remove it"):
        paths(torch.arange(3))


@pytest.mark.parametrize("damage", ["bit", "zeros", "another file", "another teacher", "cut", "longer"])
def test_states_that_are_not_those_that_were_written_are_named(tmp_path, damage):
    index, others = torch.arange(FILE_ROWS, 2 * FILE_ROWS, 100), about(teacher="another")
    paths, another = stored(tmp_path, about(), 2 * FILE_ROWS), stored(tmp_path, others, 2 * FILE_ROWS, Affine())
    for each in (paths, another):
        each(index)
        each.close()
    place = paths._path_of(1)
    content = bytearray(place.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
    elif damage == "zeros":
        content[128:] = bytes(len(content) - 128)
    elif damage == "cut":
        content = content[:-2]
    elif damage == "longer":
        content += b"0"
    else:
        content = (paths if damage == "another file" else another)._path_of(damage == "another teacher").read_bytes()
    place.write_bytes(content)
    with pytest.raises(ValueError, match=r"states-000001\.npy is damaged: remove it"):
        stored(tmp_path, about(), 2 * FILE_ROWS)(index)


def test_files_of_earlier_versions_have_no_check_and_are_read(tmp_path):
    paths = stored(tmp_path, about())
    found = paths(torch.arange(20))[0]
    paths.close()
    place = paths._path_of(0)
    place.write_bytes(place.read_bytes()[:-4])
    assert torch.equal(stored(tmp_path, about())(torch.arange(20))[0], found)
    assert torch.equal(torch.from_numpy(np.load(place)[:, :20]).float(), found[1:])  # what any program can read


def test_small_images_are_made_together_and_large_ones_in_parts(tmp_path, monkeypatch):
    assert module.rows_at_once((1, 8, 8), CPU) == 128
    assert module.rows_at_once((3, 256, 256), CPU) == 1
    assert module.rows_at_once((1, 8, 8), torch.device("cuda")) == FILE_ROWS
    whole = stored(tmp_path / "whole", about())(torch.arange(20))[0]
    monkeypatch.setattr(module, "CPU_PIXELS", 16 * 5)  # 5 rows: 512 is no multiple
    parts = stored(tmp_path / "parts", about())(torch.arange(20))[0]
    torch.testing.assert_close(parts, whole, rtol=2**-10, atol=1e-6)
