"""Networks that were given in Python: what a run keeps of one, and what is asked of it before it is trained."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from distillkac.flow.fields import guidance_embedding


@dataclass(frozen=True)
class OwnNetwork:
    """In place of NetworkConfig in the config of a run whose network is a module of the user's. No command can build it, and
    none has options for it.

    An own network is any nn.Module with forward(x (B, C, H, W), t (B,), y (B,)) -> velocity like x, float32; t in [0, 1], y
    int64 classes. Two attributes say what else it can: `null_class`, the label that means "no class", which must be the
    number of classes (needed for guidance); `guidance_embedding` = True, that forward takes a fourth argument w (B,).
    """

    module: str
    """Its class, with the module that it comes from."""
    parameters: int
    """How many numbers are trained."""
    guidance_embedding: bool = False
    """Takes the guidance weight w as an input."""

    @classmethod
    def of(cls, network: nn.Module) -> "OwnNetwork":
        kind = type(network)
        count = sum(p.numel() for p in network.parameters() if p.requires_grad)
        return cls(f"{kind.__module__}.{kind.__qualname__}", count, guidance_embedding(network))

    def refusal(self, folder: Path) -> str:
        """Why the network cannot be built, and what to do."""
        name = self.module.rsplit(".", 1)[-1]
        return (
            f"{folder} was trained with a network given in Python, {self.module}, which cannot be built from its config: open "
            f"it in Python with distillkac.runs.open_run({str(folder)!r}, network={name}(...))"
        )


def check_null_class(network: nn.Module, num_classes: int) -> None:
    """Raises ValueError naming the class if what is no module is given, or one whose label for no class is another."""
    if not isinstance(network, nn.Module):
        raise ValueError(f"network must be a torch.nn.Module, got {network!r:.80}")
    null_class = getattr(network, "null_class", None)
    if null_class is not None and null_class != num_classes:
        raise ValueError(
            f"{type(network).__name__}.null_class, the label that means no class, must be {num_classes}, the number of "
            f"classes, got {null_class!r}"
        )


def check_network(network: nn.Module, x: torch.Tensor, y: torch.Tensor, num_classes: int) -> None:
    """Raises ValueError naming the class if the network is not what OwnNetwork says. Asked once, in eval mode.

    x: (n, C, H, W) float32 images. y: (n,) their classes.
    """
    name = type(network).__name__
    check_null_class(network, num_classes)
    _refuse_shared(network)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    x, y, t = x.to(device), y.to(device), torch.linspace(0.25, 0.75, len(x), device=device)
    weights = (torch.ones(len(x), device=device),) if guidance_embedding(network) else ()
    told = f"x {tuple(x.shape)} float32, t {tuple(t.shape)} float32{', w like t' if weights else ''} and y int64"
    training, before = network.training, x.clone()
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            u = network.eval()(x, t, y, *weights)
    except Exception as error:  # whatever the module of a user raises
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{name}.forward(x, t, y) failed for {told}: {type(error).__name__}: {reason}") from error
    finally:
        network.train(training)
    if not isinstance(u, torch.Tensor) or u.shape != x.shape or u.dtype != x.dtype:
        got = f"{u.dtype} {tuple(u.shape)}" if isinstance(u, torch.Tensor) else type(u).__name__
        wanted = f"torch.float32 {tuple(x.shape)}"
        raise ValueError(f"{name}.forward(x, t, y) must return a velocity like x, {wanted}, got {got}")
    if not torch.isfinite(u).all():
        raise ValueError(f"{name}.forward(x, t, y) returned values that are not finite for {told}")
    if not torch.equal(x, before):
        raise ValueError(
            f"{name}.forward(x, t, y) changes x in place, which is the state of an integrator: copy it first"
        )
    if not u.requires_grad:
        raise ValueError(f"{name} has no parameter that its answer depends on: there is nothing to train")


def _refuse_shared(network: nn.Module) -> None:
    """Raises ValueError if a parameter has two names: moving average and checkpoint know each by one."""
    places: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if (first := places.setdefault(id(parameter), name)) != name:
            raise ValueError(
                f"{type(network).__name__} has one parameter by two names, {first} and {name}: keep it in one place, and let "
                "forward use it twice"
            )
