"""Images that several processes draw together: those of one process, and the table of `evaluate` that they give."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from distillkac import evaluate
from distillkac.base import processes
from distillkac.evaluation import shares
from distillkac.runs.run import open_run
from distillkac.runs.sampling import Drawing, SamplerConfig, class_labels, generate
from tests.places import ROOT
from tests.toys import refused


@pytest.mark.one_alignment
@pytest.mark.parametrize("num", [3, 300])
def test_shares_are_the_images_of_one_process(digits_run, monkeypatch, num):
    """In order, with their energies; also where there are fewer blocks than processes."""
    run, sampler = open_run(digits_run, "cpu"), SamplerConfig(2)
    labels, sent = class_labels(run.config, num), {}

    def gather(part, parts, group):
        sent[rank] = part
        if parts is not None:
            parts[:] = [sent[other] for other in range(len(parts))]

    monkeypatch.setattr(shares.distributed, "gather_object", gather)
    for rank in (2, 1, 0):
        process = SimpleNamespace(num_processes=3, process_index=rank, is_main_process=rank == 0)
        found = shares.images_of(run, labels, sampler, 5, 500, process)
        assert (found is None) == (rank > 0)
    alone = generate(run, labels, sampler, 5)
    for name in ("images", "labels", "energy", "times"):
        assert torch.equal(getattr(found, name), getattr(alone, name)), name
    assert found.nfe == alone.nfe
    rows = Drawing(run, sampler).rows
    assert [None if part is None else len(part.images) for _, part in sorted(sent.items())] == (
        [3, None, None] if num < rows else [rows, rows, num - 2 * rows]
    )


PATIENT = """
import sys, time, torch
from datetime import timedelta
from types import SimpleNamespace
from torch import distributed
from distillkac.base import processes
from distillkac.evaluation import shares

processes.part_at_exit()
distributed.init_process_group("gloo")  # with its own patience: on a busy machine one may start seconds after the other
distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1), distributed.group.WORLD)
rank = distributed.get_rank()
one = SimpleNamespace(num_processes=2, process_index=rank, is_main_process=rank == 0)
shares.Drawing = lambda *_: SimpleNamespace(rows=1)
shares.generate = lambda *_, offset: SimpleNamespace(
    images=torch.tensor([offset]), energy=torch.ones(1), nfe=1, times=torch.ones(1)
)
drawn = shares.all_images_of([(None, None)], torch.zeros(2), 0, 1, one)
time.sleep(3 * (rank == 0))  # as one that trains an evaluator
found = next(drawn)
sys.exit(0 if (found is None if rank else found.images.tolist() == [0, 1]) else 1)
"""


def test_the_others_wait_for_the_first_longer_than_torch_does(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert processes._run([sys.executable, "-c", PATIENT], 2, processes._free_port()) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares processes on a CPU")
def test_two_processes_make_the_table_of_one(digits_run, capfd):
    """Up to rounding: a process of two may have another number of threads."""
    options = [str(digits_run), "--num", "150", "--teacher-steps", "2", "--model", "teacher"]
    assert evaluate.main(options) == 0
    report = digits_run / "evaluation.json"
    (real, one), before = json.loads(report.read_text())["rows"], capfd.readouterr().out
    report.unlink()
    assert evaluate.main([*options, "--processes", "2"]) == 0
    (same, two), after = json.loads(report.read_text())["rows"], capfd.readouterr().out
    rates = [row.pop("images_per_second") for row in (one, two)]
    assert same == real
    assert min(rates) > 0
    assert two == {key: pytest.approx(value, rel=1e-4) if type(value) is float else value for key, value in one.items()}
    assert len(after.splitlines()) == len(before.splitlines())  # one of them speaks


def test_averages_are_measured_by_one_process(digits_run, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    said = refused(evaluate, [digits_run, "--ema", "all", "--processes", "auto"], capsys)
    assert "--ema measures in one process: omit --processes" in said
