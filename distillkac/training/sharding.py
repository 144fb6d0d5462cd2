"""Weights, average and optimizer state spread over the processes (FSDP2), for networks too large for one device.

Each process keeps 1/n of every tensor and gathers a block's weights while it needs them. Checkpoints hold whole tensors, so
a run may go on with another number of processes, sharded or not.
"""

import torch
from torch import nn


def shard(network: nn.Module, processes: int, device: torch.device) -> None:
    """Shards the parameters in place, block by block; to be called by all processes, after the weights are set."""
    from torch.distributed.device_mesh import init_device_mesh  # these imports take a second
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    for block in blocks(network):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def blocks(network: nn.Module) -> list[nn.Module]:
    """The parts that are gathered one at a time: levels of a U-Net, blocks of a transformer. Parts of these come first."""
    lists = ("down_blocks", "up_blocks", "transformer_blocks")
    found = []
    for name, module in network.named_modules():
        last = name.rsplit(".", 1)[-1]
        if last in lists:
            # diffusers' DiT asks the first block's embedding of time and class once more behind the blocks.
            asked_again = getattr(getattr(next(iter(module), None), "norm1", None), "emb", None)
            found += ([] if asked_again is None else [asked_again]) + list(module)
        elif last == "mid_block" and module is not None:
            found.append(module)
    return found


def whole(value):
    """A tensor gathered from all processes (each must ask), or the nested value with every tensor in it gathered."""
    if hasattr(value, "full_tensor"):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value


def local(value: torch.Tensor) -> torch.Tensor:
    """This process's part, sharing memory with `value`."""
    return value.to_local() if hasattr(value, "to_local") else value


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor spread as `parameter` is, if it has its shape, or in memory in its order: fused optimizers go through
    parameters and moments as they lie there."""
    if value.shape != parameter.shape:
        return value
    if not hasattr(parameter, "placements"):
        same = value.stride() == parameter.stride()
        return value if same else torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def optimizer_state_like(state: dict, optimizer: torch.optim.Optimizer) -> dict:
    """An optimizer's state dict of whole tensors, spread as the parameters of `optimizer` are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {i: {k: like(v, parameters[i]) for k, v in values.items()} for i, values in state["state"].items()}
    return state | {"state": moments}
