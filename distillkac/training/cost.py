"""What a run will cost before it is begun: counted where it can be, else measured on a few images."""

import time

import torch

from distillkac.runs.config import RunConfig
from distillkac.runs.run import build_network
from distillkac.training.batches import Batch
from distillkac.training.objective import FlowMatching, Objective

COUNTED_ROWS, ENOUGH_SECONDS = 1, 0.5


def cost(config: RunConfig, device: torch.device) -> dict[str, float]:
    """What training `config` takes: counted where it can be, its time measured on `device` with a few images.

    parameters; flops_per_image of one evaluation (a multiply-add is two); weight_bytes of weights, gradients, AdamW and
    the average; activation_bytes of one batch (what autograd keeps, float32); seconds_per_step and hours of the run:
    forward and backward, the best of three or the only one of over half a second, with as many images as that allows.
    """
    from torch.utils.flop_counter import FlopCounterMode

    network = build_network(config).to(device).train()
    parameters = sum(p.numel() for p in network.parameters())
    objective = FlowMatching(config.noise.build(), network.null_class, config.label_drop, config.seed)
    rows = min(COUNTED_ROWS, config.optim.batch_size)
    x0, y = torch.zeros(rows, *config.shape, device=device), torch.zeros(rows, dtype=torch.int64, device=device)
    batch = Batch(x0, y, 0, 0, rows)
    saved, known = 0, {p.untyped_storage().data_ptr() for p in network.parameters()}

    def keep(tensor):
        nonlocal saved
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            known.add(place)
            saved += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(network, batch)
    loss.backward()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        objective(network, batch)
    step = seconds_per_image(objective, network, batch, config.optim.batch_size) * config.optim.batch_size
    return {
        "parameters": parameters,
        "flops_per_image": counter.get_total_flops() / rows,
        "weight_bytes": 20 * parameters,
        "activation_bytes": saved / rows * config.optim.batch_size / config.optim.accumulate,
        "seconds_per_step": step,
        "hours": step * config.steps / 3600,
    }


def described(config: RunConfig, figures: dict[str, float], device: torch.device) -> str:
    """A paragraph for people."""
    noise = config.noise
    law = f"sigma {noise.sigma:g}" if noise.process == "gaussian" else f"a {noise.a:g}, c {noise.c:g}"
    kind = "images" if config.shape[0] in (1, 3) else "latents"
    return "\n".join(
        (
            f"{noise.process} ({law}) on {kind} {'x'.join(map(str, config.shape))}, {len(config.class_names)} classes",
            f"network      {config.network.backbone} {figures['parameters'] / 1e6:.2f} M parameters, "
            f"{figures['flops_per_image'] / 1e9:.3g} GFLOP an image and evaluation",
            f"training     {config.steps} steps of {config.optim.batch_size} images: "
            f"{3 * figures['flops_per_image'] * config.optim.batch_size * config.steps:.2g} FLOP",
            f"memory       {figures['weight_bytes'] / 2**30:.2g} GiB weights and optimizer, "
            f"{figures['activation_bytes'] / 2**30:.2g} GiB activations of a batch",
            f"time         about {figures['seconds_per_step']:.2g} s a step, {figures['hours']:.2g} hours in all, on this "
            f"{device.type}",
        )
    )


def seconds_per_image(objective: Objective, network: torch.nn.Module, batch: Batch, most: int) -> float:
    """Forward and backward, the best of three (or one, if it is slow), with as many images like those of `batch` as half a
    second allows.

    most: the largest number tried; larger batches are faster an image.
    """
    rows, x0, y = len(batch.x0), batch.x0[:1], batch.y[:1]
    per_image = _seconds(objective, network, batch) / rows
    while rows < most and per_image * rows < ENOUGH_SECONDS:
        rows = min(4 * rows, most)
        batch = Batch(x0.expand(rows, *x0.shape[1:]), y.expand(rows), batch.step, 0, rows)
        per_image = _seconds(objective, network, batch) / rows
    return per_image


def _seconds(objective: Objective, network: torch.nn.Module, batch: Batch) -> float:
    times = []
    for _ in range(3):
        _finish(batch.x0.device)
        start = time.perf_counter()
        objective(network, batch).backward()
        _finish(batch.x0.device)
        times.append(time.perf_counter() - start)
        if times[0] > ENOUGH_SECONDS:  # large networks are timed well enough by once
            break
    return min(times)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
