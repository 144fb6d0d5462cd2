"""What a run will cost before it is begun: counted where it can be, else measured on a few images.

`flops`, `flops_per_image` and `seconds_per_image` are the only meters of the package.
"""

import time
from collections.abc import Callable

import torch

from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.network_config import NetworkConfig
from distillkac.runs.config import RunConfig
from distillkac.runs.process_config import law
from distillkac.runs.run import build_network
from distillkac.runs.times_config import learned_at
from distillkac.training import optimizer
from distillkac.training.activations import activation_bytes
from distillkac.training.averages import SNAPSHOTS
from distillkac.training.batches import Batch
from distillkac.training.objective import evaluations_of
from distillkac.training.objectives import objective_for, settled, trained

ENOUGH_SECONDS = 0.5


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of what `work` computes, a multiply-add counted as two; matrix products and convolutions
    alone are counted."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Attention as the matrix products that it is: what a CPU does in its place is not counted by torch.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def flops_per_image(network: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations of one evaluation of a network (forward(x, t, y)) for one image of this shape."""
    batch = blank_batch(shape, next(network.parameters()).device)
    time = torch.ones(1, dtype=torch.float32, device=batch.x0.device)
    with torch.no_grad():
        return flops(lambda: GuidedVelocity(network)(batch.x0, time, batch.y))


def blank_batch(shape: tuple[int, ...], device: torch.device, update: int = 0) -> Batch:
    """A batch of one image of zeros, of class 0, to measure with. update: its number, for objectives that ask for it."""
    x0, y = torch.zeros(1, *shape, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    return Batch(x0, y, update, 0, 1)


def cost(config: RunConfig, device: torch.device) -> dict[str, float]:
    """What training `config` takes: counted where it can be, its time measured on `device` with a few images.

    parameters; flops_per_image of one evaluation (a multiply-add is two); evaluations, what an image of a step costs in such, a
    backward pass being two; weight_bytes of weights, gradients, the
    optimizer's state and the average; activation_bytes of one batch (what autograd keeps, float32; with gradient checkpointing
    and the largest block, which is computed once more); seconds_per_step and
    hours of the run: forward and backward, without the optimizer, the best of three or the only one of over half a second,
    with as many images as that allows.
    """
    network = build_network(config).to(device).train()
    parameters = sum(p.numel() for p in network.parameters())
    # Muon keeps one number for each of a matrix, where AdamW keeps two.
    groups = optimizer.parameter_groups(network, config.optim)
    spared = sum(p.numel() for group in groups if group.get("muon") for p in group["params"])
    objective, learner = objective_for(settled(config, network), network), trained(config, network)
    batch = blank_batch(config.shape, device)
    saved = activation_bytes(network, lambda: objective(learner, batch))
    seconds = seconds_per_image(lambda part: objective(learner, part).backward(), batch, config.optim.batch_size)
    step = seconds * config.optim.batch_size
    return {
        "parameters": parameters,
        "flops_per_image": flops_per_image(network, config.shape),
        "evaluations": 3 + evaluations_of(objective),
        "weight_bytes": 20 * parameters - 4 * spared,
        "activation_bytes": saved * config.optim.batch_size / (config.optim.exact_parts or config.optim.accumulate),
        "seconds_per_step": step,
        "hours": step * config.steps / 3600,
    }


def described(config: RunConfig, figures: dict[str, float], device: torch.device) -> str:
    """A paragraph for people."""
    kind = "images" if config.shape[0] in (1, 3) else "latents"
    network = config.network
    assert isinstance(network, NetworkConfig), "one given in Python has no options to show"
    recomputed = ", the blocks computed twice (--network.checkpointing)" if network.checkpointing else ""
    uncompiled = ", before --optim.compile, whose gain is not guessed" if config.optim.compile else ""
    uncompiled += (
        ", in float32, as the memory: --optim.precision bf16 changes both" if config.optim.precision == "bf16" else ""
    )
    patches = f", patches of {network.side}x{network.side}," if network.side > 1 else ""
    return "\n".join(
        (
            f"{law(config.noise)} on {kind} {'x'.join(map(str, config.shape))}, {len(config.class_names)} classes",
            f"network      {network.backbone}{patches} {figures['parameters'] / 1e6:.2f} M parameters, "
            f"{figures['flops_per_image'] / 1e9:.3g} GFLOP an image and evaluation",
            *([f"learns at    {learned_at(config)}"] if learned_at(config) != learned_at(RunConfig()) else []),
            f"training     {config.steps} steps of {config.optim.batch_size} images: "
            f"{figures['evaluations'] * figures['flops_per_image'] * config.optim.batch_size * config.steps:.2g} FLOP",
            f"memory       {figures['weight_bytes'] / 2**30:.2g} GiB weights and optimizer, "
            f"{figures['activation_bytes'] / 2**30:.2g} GiB activations of a batch{recomputed}",
            *_of_averages(config, figures["parameters"]),
            f"time         about {figures['seconds_per_step']:.2g} s a step, {figures['hours']:.2g} hours in all, on this "
            f"{device.type}{uncompiled}",
        )
    )


def _of_averages(config: RunConfig, parameters: float) -> tuple[str, ...]:
    """A line on what further averages cost, if there are any."""
    optim, gib = config.optim, 4 * parameters / 2**30
    count = len(optim.averages) + len(optim.decays)
    if not count:
        return ()
    taken = config.steps // (optim.snapshot_every or -(-config.steps // SNAPSHOTS))
    disk = f", {taken} snapshots of {len(optim.averages) * gib:.2g} GiB on disk" if optim.averages else ""
    return (f"averages     {count} beside the first, {count * gib:.2g} GiB of memory{disk}",)


def seconds_per_image(work: Callable[[Batch], object], batch: Batch, most: int) -> float:
    """Of what `work` does with a batch, the best of three (or one, if it is slow), with as many images like those of `batch` as
    half a second allows.

    most: the largest number tried; larger batches are faster an image.
    """
    rows, x0, y = len(batch.x0), batch.x0[:1], batch.y[:1]
    per_image = _seconds(work, batch) / rows
    while rows < most and per_image * rows < ENOUGH_SECONDS:
        rows = min(4 * rows, most)
        batch = Batch(x0.expand(rows, *x0.shape[1:]), y.expand(rows), batch.step, 0, rows)
        per_image = _seconds(work, batch) / rows
    return per_image


def _seconds(work: Callable[[Batch], object], batch: Batch) -> float:
    times = []
    for _ in range(3):
        _finish(batch.x0.device)
        start = time.perf_counter()
        work(batch)
        _finish(batch.x0.device)
        times.append(time.perf_counter() - start)
        if times[0] > ENOUGH_SECONDS:  # large networks are timed well enough by once
            break
    return min(times)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
