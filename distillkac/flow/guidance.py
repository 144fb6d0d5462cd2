"""Classifier-free guidance in velocity space: u = u_cond + w (u_cond - u_uncond).

w is the paper's weight, 0 = no guidance; the `guidance_scale` that diffusers users know is 1 + w.
"""

import torch

from distillkac import ops


class GuidedVelocity:
    """A network as the velocity field of an integrator, with guidance and an honest count of evaluations.

    network: callable (x (B, ...), t (B,), y (B,)) -> velocity like x; any function will do. Guidance needs its attribute
             `null_class`, the label that means "no class". A network with `guidance_embedding` takes w as a fourth argument
             and already answers with the guided velocity.
    w:       guidance weight >= 0, a float or a (B,) tensor.
    interval: guidance acts for t in [low, high]; outside it the field is unguided.
    max_speed: if given, the guided velocity is limited to it, each coordinate or, for process "planar", each pair.

    `nfe` counts network evaluations per sample since the start: two where guided, one where not.
    """

    def __init__(self, network, w=0.0, interval=(0.0, 1.0), max_speed=None, process="telegraph"):
        weights = torch.as_tensor(w)
        if not (torch.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(f"guidance weight w must be finite and at least 0 (0 = no guidance), got {w}")
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(f"guidance interval must be 0 <= low <= high <= 1, got {tuple(interval)}")
        if max_speed is not None and not max_speed > 0:
            raise ValueError(f"max_speed must be positive, got {max_speed}")
        self.network, self.w, self.interval = network, w, tuple(interval)
        self.max_speed, self.process = max_speed, process
        self.embedded = getattr(network, "guidance_embedding", False)
        self.nfe = 0

    def evaluate(self, x, t, y):
        """The network's answers at (x, t): (u_cond, u_uncond or None, w there).

        x: (B, ...). t: a float common to all rows, or (B,). y: (B,) class labels. u_uncond is None, and only one
        evaluation is made, where guidance does nothing: w = 0, t outside the interval, or w is a network input.
        """
        w = self._weight(t)
        times = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x))
        if self.embedded:
            self.nfe += 1
            weights = torch.as_tensor(w, dtype=torch.float32, device=x.device).expand(len(x))
            return self.network(x, times, y, weights), None, 0.0
        if isinstance(w, float) and w == 0:
            self.nfe += 1
            return self.network(x, times, y), None, 0.0
        null = torch.full_like(y, null_class_of(self.network))
        self.nfe += 2
        both = self.network(torch.cat([x, x]), torch.cat([times, times]), torch.cat([y, null]))
        u_cond, u_uncond = both.chunk(2)
        return u_cond, u_uncond, w

    def __call__(self, x, t, y):
        """The guided, speed-limited velocity at (x, t). Shapes as in `evaluate`; returns like x."""
        u_cond, u_uncond, w = self.evaluate(x, t, y)
        if u_uncond is None:
            if self.max_speed is None:
                return u_cond
            u_uncond, w = u_cond, 0.0
        return ops.guided_velocity(u_cond, u_uncond, w, self.max_speed, self.process)

    def _weight(self, t):
        low, high = self.interval
        if not torch.is_tensor(t):
            if not low <= t <= high:
                return 0.0
            return self.w if torch.is_tensor(self.w) else float(self.w)
        if self.interval == (0.0, 1.0) or (not torch.is_tensor(self.w) and self.w == 0):
            return self.w if torch.is_tensor(self.w) else float(self.w)
        inside = (t >= low) & (t <= high)
        return torch.as_tensor(self.w, dtype=torch.float32, device=t.device) * inside


def null_class_of(network) -> int:
    """The label that means "no class" to a network. Raises ValueError if it has none, and so cannot be guided."""
    label = getattr(network, "null_class", None)
    if label is None:
        raise ValueError(
            f"guidance (w > 0) asks the network for a velocity without a class, and {type(network).__name__} has no attribute "
            "null_class, the label that means no class: set it, or use w = 0"
        )
    return label
