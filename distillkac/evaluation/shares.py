"""What several processes draw together, each its share: images, or their features."""

import time

import torch
from accelerate import Accelerator
from torch import distributed

from distillkac.evaluation import fidelity
from distillkac.evaluation.inception import Inception
from distillkac.evaluation.rows import described
from distillkac.runs.run import Run
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import Drawing, Samples, generate


def images_of(
    run: Run, labels: torch.Tensor, sampler: SamplerConfig, seed: int, batch_size: int, accelerator: Accelerator
) -> Samples | None:
    """What `generate` gives, in the first process; None in the others. To be called in every process.

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
    distributed.gather_object(part, parts)
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
