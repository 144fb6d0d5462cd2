"""What several processes draw together, each its share: images, or their features."""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
from accelerate import Accelerator
from torch import distributed

from distillkac.evaluation import fidelity
from distillkac.evaluation.inception import Inception
from distillkac.evaluation.rows import described
from distillkac.runs.run import Run
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import Drawing, Samples, generate

PATIENCE = timedelta(days=1)
"""Of the processes that wait for the first, which trains an evaluator and measures meanwhile. torch's own is half an hour."""


def all_images_of(
    todo: Sequence[tuple[Run, SamplerConfig]],
    labels: torch.Tensor,
    seed: int,
    batch_size: int,
    accelerator: Accelerator,
) -> Iterator[Samples | None]:
    """What `images_of` gives of each, drawn as it is asked for. To be called in every process, before one has more to do."""
    group = None if accelerator.num_processes == 1 else distributed.new_group(backend="gloo", timeout=PATIENCE)
    return (images_of(run, labels, sampler, seed, batch_size, accelerator, group) for run, sampler in todo)


def images_of(
    run: Run,
    labels: torch.Tensor,
    sampler: SamplerConfig,
    seed: int,
    batch_size: int,
    accelerator: Accelerator,
    group: distributed.ProcessGroup | None = None,
) -> Samples | None:
    """What `generate` gives, in the first process; None in the others. To be called in every process. group: by which they
    exchange; None for the one of all that torch has.

    Shares are whole blocks of a Drawing, so on CPUs the images are those of one process to the bit, where each has as many
    threads. `seconds` are those until the first process has them all.
    """
    count = accelerator.num_processes
    if count == 1:
        return generate(run, labels, sampler, seed, batch_size)
    rows, start = Drawing(run, sampler, seed, batch_size).rows, time.perf_counter()
    share = -(-len(labels) // (rows * count)) * rows
    first = accelerator.process_index * share
    mine = labels[first : first + share]
    part = generate(run, mine, sampler, seed, batch_size, offset=first) if len(mine) else None
    parts: list[Samples | None] | None = [None] * count if accelerator.is_main_process else None
    distributed.gather_object(part, parts, group=group)
    if parts is None:
        return None
    some = [each for each in parts if each is not None]
    images, energy = torch.cat([each.images for each in some]), torch.cat([each.energy for each in some])
    return Samples(images, labels, some[0].nfe, time.perf_counter() - start, some[0].times, energy)


def features_of(
    run: Run,
    labels: torch.Tensor,
    sampler: SamplerConfig,
    seed: int,
    batch_size: int,
    extractor: Inception,
    accelerator: Accelerator,
) -> tuple[dict, torch.Tensor]:
    """(row of the table without its measures, (n, d) features), in every process. No more than a batch of images is held at a
    time."""
    seconds, nfe = 0.0, 0

    def images(first: int, last: int) -> torch.Tensor:
        nonlocal seconds, nfe
        samples = generate(run, labels[first:last], sampler, seed, batch_size, offset=first)
        seconds, nfe = seconds + samples.seconds, samples.nfe
        return samples.images

    title = f"{run.name}, {sampler.steps} steps"
    features = fidelity.collect(extractor, images, len(labels), batch_size, accelerator, title)
    return described(run, sampler, nfe, len(labels) / seconds if seconds else 0.0), features
