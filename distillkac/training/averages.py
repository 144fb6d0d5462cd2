"""Further averages of a network's weights beside the one that is the run's model: more decays, and power averages.

RUN/averages/step-N.safetensors is a snapshot of the power averages after N steps: NAME/WEIGHT of each, and buffer/NAME of what
is no parameter. The averages of the run's own step are in its checkpoint. `reconstructed` makes one of any length of them.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from distillkac.base import files
from distillkac.runs import checkpoints, kept
from distillkac.runs.optim_config import OptimConfig
from distillkac.training.ema import EMA
from distillkac.training.power_averages import combination, decay, exponent
from distillkac.training.sharding import whole

SNAPSHOTS = 16
"""Of a training where nothing is said: enough for lengths of 0.03 to 0.25 of two averages of 0.05 and 0.10."""
LARGEST_ERROR = 0.1
"""Of a reconstructed profile, as a share of its norm."""


def names(optim: OptimConfig) -> list[str]:
    """Of the further averages that a training keeps."""
    return [f"power-{length!r}" for length in optim.averages] + [f"decay-{value!r}" for value in optim.decays]


class PowerAverage(EMA):
    """The power average of relative length `length`, see power_averages.py."""

    def __init__(self, network: nn.Module, length: float):
        super().__init__(network, decay=1.0)
        self.gamma = exponent(length)

    def kept(self) -> float:
        return decay(self.updates, self.gamma)


class Averages:
    """All of them by name, `power-0.05` or `decay-0.9999`; sharded as the network is."""

    def __init__(self, network: nn.Module, optim: OptimConfig, steps: int):
        self.every = optim.snapshot_every or -(-steps // SNAPSHOTS)
        power = [PowerAverage(network, length) for length in optim.averages]
        made = [*power, *(EMA(network, value) for value in optim.decays)]
        self.all: dict[str, EMA] = dict(zip(names(optim), made, strict=True))
        self.power = dict(zip(self.all, power, strict=False))

    def update(self, network: nn.Module) -> None:
        for average in self.all.values():
            average.update(network)

    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """Of each its weights, whole; all processes must ask."""
        return {name: whole(average.weights) for name, average in self.all.items()}

    def load(self, state: dict[str, dict[str, torch.Tensor]], updates: int) -> None:
        """Takes up what `weights` gave after so many updates."""
        for name, average in self.all.items():
            average.load(state[name], updates)

    def due(self, step: int) -> bool:
        """Whether a snapshot is to be taken after this step."""
        return bool(self.power) and step % self.every == 0

    def snapshot(self, folder: Path, step: int, network: nn.Module, main: bool) -> None:
        """Writes the power averages of `step`, on the main process; all must call it. network: that they follow."""
        found = {f"{name}/{key}": value for name in self.power for key, value in whole(self.all[name].weights).items()}
        own = self.power[next(iter(self.power))].weights
        found |= {f"buffer/{key}": value for key, value in whole(network.state_dict()).items() if key not in own}
        if main:
            found = {key: value.detach().cpu().contiguous() for key, value in found.items()}
            about = {"format": "pt", "step": str(step), "digest": checkpoints.digest_of(step, found)}
            files.write_atomic(place(folder, step), checkpoints.to_safetensors(found, about))


def place(folder: Path, step: int) -> Path:
    return folder / kept.AVERAGES / f"step-{step:06d}.safetensors"


def snapshots(folder: Path, last: int) -> list[tuple[int, Path]]:
    """(step, file) of the snapshots of a run up to step `last`, in order. Those of a checkpoint that a run keeps are that
    run's."""
    run = kept.keeper(folder) or folder
    found = [
        (re.fullmatch(r"step-(\d+)", path.stem), path) for path in (run / kept.AVERAGES).glob("step-*.safetensors")
    ]
    return sorted((int(match[1]), path) for match, path in found if match and int(match[1]) <= last)


def drop_later(folder: Path, step: int) -> None:
    """Removes snapshots after `step`, where a training goes on: with other options they would be of another one."""
    early = {path for _, path in snapshots(folder, step)}
    for path in (folder / kept.AVERAGES).glob("step-*.safetensors"):
        if path not in early:
            path.unlink()


class Reconstruction:
    """The averages of a run that has ended, or of the checkpoint that it is at.

    step: after which; by default that of the run's weights. Raises ValueError if the run kept none up to there.
    """

    def __init__(self, folder: Path, step: int | None = None):
        self.folder = folder
        state = checkpoints.load_state(folder)
        now = state["step"] if state is not None else checkpoints.load_weights(folder)[1]
        self.step = now if step is None else step
        if step is not None and not 1 <= step <= now:
            raise ValueError(f"{folder} has made {now} steps: there is no average after {step}")
        self.own = state.get("averages", {}) if state is not None and self.step == now else {}
        self.files = snapshots(folder, self.step)
        there = [taken for taken, _ in self.files]
        if self.step < now and there and self.step not in there:
            raise ValueError(
                f"{folder} has no snapshot of step {step}, but of {', '.join(map(str, there))}: choose one of them"
            )
        self.present = checkpoints.load_weights(folder)[0] if self.step == now else {}
        if not self.own and not self.files:
            raise ValueError(
                f"{folder} kept no averages to choose from: train with --optim.averages 0.05 0.10, or with --optim.decays"
            )

    def decays(self) -> list[str]:
        """Names of the further moving averages that the run has at this step."""
        return [name for name in self.own if name.startswith("decay-")]

    def decayed(self, name: str) -> dict[str, torch.Tensor]:
        """The state dict of one of these."""
        return self.present | self.own[name]

    def error(self, length: float) -> float:
        """How far the profile of a reconstructed average is from what it shall be, as a share of its norm; infinite where there
        is nothing to make it of."""
        found = [(step, own) for step, own, _ in self._parts()]
        return combination(found, self.step, length).error if found else float("inf")

    def check(self, length: float) -> None:
        """Raises ValueError if the snapshots cannot make the average of this relative length."""
        if (error := self.error(length)) > LARGEST_ERROR:
            raise ValueError(
                f"{self.folder}: its snapshots cannot make an average of relative length {length:g} after {self.step} steps "
                f"(the profile would be {error:.0%} off): choose one nearer to {self._lengths()}, or train with a smaller "
                "--optim.snapshot-every"
            )

    def reconstructed(self, length: float) -> dict[str, torch.Tensor]:
        """The state dict of the power average of this relative length. Raises ValueError if the snapshots cannot make it."""
        self.check(length)
        parts = list(self._parts())
        weights = combination([(step, own) for step, own, _ in parts], self.step, length).weights
        sums: dict[str, torch.Tensor] = {}
        now, buffers = None, {}
        for weight, (_, own, path) in zip(weights, parts, strict=True):
            if path is not None and path != now:
                (content, _), now = checkpoints.load_weights(path.parent, path.name), path
                buffers = _under("buffer", content)
            values = self.own[f"power-{own!r}"] if path is None else _under(f"power-{own!r}", content)
            for key, value in values.items():
                sums[key] = sums.get(key, torch.zeros_like(value, dtype=torch.float64)).add_(value, alpha=weight)
        # Parameters are of one kind, and so are their averages.
        return (self.present or buffers) | {key: value.to(values[key].dtype) for key, value in sums.items()}

    def _parts(self) -> Iterator[tuple[int, float, Path | None]]:
        """(step, relative length, file) of every average that can be combined; no file: it is in the checkpoint."""
        for step, path in self.files:
            if step < self.step or not self.own:
                yield from ((step, own, path) for own in _lengths_of(path))
        yield from ((self.step, float(name.removeprefix("power-")), None) for name in self.own if "power-" in name)

    def _lengths(self) -> str:
        return " and ".join(f"{own:g}" for own in sorted({own for _, own, _ in self._parts()})) or "none that is there"


def _lengths_of(path: Path) -> list[float]:
    with checkpoints.open_safetensors(path) as file:
        names = {key.split("/", 1)[0] for key in file.keys()}  # noqa: SIM118
    return sorted(float(name.removeprefix("power-")) for name in names if name.startswith("power-"))


def _under(prefix: str, content: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.split("/", 1)[1]: value for key, value in content.items() if key.split("/", 1)[0] == prefix}
