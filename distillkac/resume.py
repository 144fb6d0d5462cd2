"""What a training goes on from: the checkpoint of its folder, if it fits, or its start."""

from pathlib import Path

from torch import nn

from distillkac import checkpoints


def checkpoint(folder: Path, network: nn.Module, averaged: nn.Module) -> dict | None:
    """The state that `checkpoints.save` wrote, or None if there is none yet.

    network, averaged: what is trained, and the part of it that the moving average follows. Raises ValueError naming the file
    and the entry if weights, average or AdamW's moments do not fit.
    """
    state, path = checkpoints.load_state(folder), folder / checkpoints.STATE
    if state is None:
        return None
    checkpoints.check_fit(path, state["model"], network.state_dict())
    checkpoints.check_fit(path, state["ema"], averaged.state_dict())
    parameters = [p for group in parameter_groups(network) for p in group["params"]]
    for number, moments in state["optimizer"]["state"].items():
        shape = parameters[number].shape if number in range(len(parameters)) else None
        fits = moments.keys() == {"step", "exp_avg", "exp_avg_sq"} and all(
            value.shape == (() if name == "step" else shape) for name, value in moments.items()
        )
        if not fits:
            raise ValueError(f"{path}: does not fit the network of {checkpoints.CONFIG}: optimizer state {number}")
    return state


def start(network: nn.Module, averaged: nn.Module) -> dict:
    """The same for a network before its first step, copied."""
    model, ema = (
        {name: value.detach().cpu().clone() for name, value in part.state_dict().items()}
        for part in (network, averaged)
    )
    return {"step": 0, "model": model, "ema": ema, "optimizer": {"state": {}}, "ema_updates": 0}


def parameter_groups(network: nn.Module) -> list[dict]:
    """For the optimizer, see training.Objective."""
    return network.param_groups() if hasattr(network, "param_groups") else [{"params": list(network.parameters())}]
