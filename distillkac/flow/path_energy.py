"""The kinetic energy of a path from noise to data (arXiv 2602.07928), free while it is walked."""

import torch

from distillkac.base.tensors import sent

__all__ = ["PathEnergy"]


class PathEnergy:
    """1/2 int ||u||^2 dt / D of each row: half the mean square velocity of its D numbers over the path.

    Give a new one to `integrate`, `restart_chain` or `trajectory_chain`, which add their steps to it: no evaluation more. u is
    the velocity that the step went with: of Heun the mean of both, of AB-2 the extrapolated one, guided, shaped and limited
    where these are asked for. What is drawn anew in a step has no velocity: the step counts as if it had gone along u.
    steps: [(B,)] float64, one tensor a step, on the state's device.
    """

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def add(self, u: torch.Tensor, h: float | torch.Tensor) -> None:
        """A step of length h, a number or (B,), at the velocity u (B, ...)."""
        rows = u.detach().flatten(1)
        square = torch.linalg.vector_norm(rows.float(), dim=1).double().square() / max(1, rows.shape[1])
        self.steps.append(square * (sent(h, u.device).double() if torch.is_tensor(h) else h) / 2)

    @property
    def total(self) -> torch.Tensor:
        """(B,) float64, >= 0. Raises ValueError before the first step."""
        if not self.steps:
            raise ValueError("no path has been walked with this PathEnergy yet: give it to integrate")
        return torch.stack(self.steps).sum(0)
