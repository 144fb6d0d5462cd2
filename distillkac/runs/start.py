"""What a training begins with in place of random weights: those of another run, or of a model that diffusers saved.

What fits by name and shape is taken. Classes of the same name keep what was learned of them, and so does "no class"; everything
else that does not fit is left as it was made, and named.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from distillkac.base import paths
from distillkac.flow.adopted import AdoptedNetwork
from distillkac.flow.network_config import NetworkConfig
from distillkac.runs import checkpoints, foreign
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.run import default_network

LEAST = 0.5  # share of a network's numbers that must be found: with less it is another network
CLASSES = ("classes.weight", "class_embedder.embedding_table.weight")


@dataclass(frozen=True)
class Start:
    """digest: of the weights that were taken from. taken: share of the network's numbers. fresh: entries that were left as they
    were made. unused: entries that the network has no place for."""

    digest: str
    taken: float
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def told(self, source: str | os.PathLike[str]) -> str:
        """A sentence for people."""
        rest = [
            f"{word} {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
            for word, names in self._lists()
            if names
        ]
        return f"begins with the weights of {source} ({self.taken:.0%} of its own)" + "".join(
            f"; {part}" for part in rest
        )

    def _lists(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return ("left fresh:", self.fresh), ("not used:", self.unused)


def begin_from(network: nn.Module, config: RunConfig, source: str | os.PathLike[str]) -> Start:
    """Puts the weights of `source`, a run folder, a shipped model's name, or what diffusers saved, into the network of a new
    run. Raises ValueError if it is none of them, or a network of another kind or width."""
    weights, names = _weights(os.fspath(source))
    mine, fresh = network.state_dict(), []
    taken: dict[str, Tensor] = {}
    for name, value in mine.items():
        other = weights.pop(name, None)
        if other is not None and name.endswith(CLASSES) and names != config.class_names:
            left = _take_classes(name, value, other, config.class_names, names)
            fresh += left
            taken |= {} if left else {name: value}
        elif other is not None and other.shape == value.shape:
            value.copy_(other)
            taken[name] = value
        else:
            fresh.append(name if other is None else f"{name} {tuple(value.shape)}, {tuple(other.shape)} there")
    share = sum(value.numel() for value in taken.values()) / max(1, sum(value.numel() for value in mine.values()))
    if share < LEAST:
        raise ValueError(
            f"{source} is another network: {fresh[0] if fresh else 'nothing'} does not fit; give the options --network.* that "
            "it was made with"
        )
    # Of what was taken: the rest of an own network may be other random numbers each time it is made.
    digest = checkpoints.digest_of(0, {name: value.cpu() for name, value in taken.items()})
    return Start(digest, share, tuple(fresh), tuple(weights))


def started(
    network: nn.Module, config: RunConfig, source: str | os.PathLike[str], saved: RunConfig | None
) -> RunConfig:
    """`begin_from`, told to people, and the config of the run that knows it. saved: of the run that is continued. Raises
    ValueError too if that began with other weights."""
    start = begin_from(network, config, source)
    if saved is not None and saved.began_with != start.digest:
        raise ValueError(
            f"the run began with other weights than those of {source} now, which --init cannot change: omit it"
        )
    if saved is None and os.environ.get("RANK", "0") == "0":  # the first of several processes, as launchers number them
        print(start.told(source), flush=True)
    return dataclasses.replace(config, began_with=start.digest)


def refuse_lost(folder: Path, saved: RunConfig | None) -> None:
    """Raises ValueError if a run that goes on without --init began with it, and ended before its first checkpoint. saved: of
    that run, None if none goes on."""
    if saved is not None and saved.began_with is not None and not (folder / checkpoints.STATE).exists():
        raise ValueError(
            f"{folder} began with the weights of another run or model and has no checkpoint yet: give --init (in Python init=) "
            "again, or remove the folder to begin without"
        )


def network_of(source: str) -> NetworkConfig | None:
    """The network of a run, which one that begins with its weights has too unless it is told otherwise; None if the source is
    no run, or its network has no options. What else than images, time and class it takes in is not taken: that is for the
    objective to say."""
    folder = _run_of(source)
    network = None if folder is None else load_config(folder).network
    if not isinstance(network, NetworkConfig):
        return None
    return dataclasses.replace(network, guidance_embedding=False, interval_embedding=False, augment_embedding=False)


def _run_of(source: str) -> Path | None:
    folder = default_network(paths.expanded("--init", paths.from_text(source)))
    return folder if (folder / checkpoints.EMA).exists() else None


def check_source(source: str) -> None:
    """Raises ValueError if the source of --init is neither a run folder, nor a shipped model, nor of diffusers."""
    if _run_of(source) is None:
        _located(source)


def _located(source: str) -> foreign.Foreign:
    try:
        return foreign.locate(source)
    except ValueError as error:
        near = checkpoints.similar_runs(paths.expanded("--init", paths.from_text(source)))
        raise ValueError(f"{error}{f' (did you mean the run {near}?)' if near else ''}") from None


def _weights(source: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """(weights by the names that VelocityNet has for them, names of the classes or ())."""
    folder = _run_of(source)
    if folder is not None:
        config, (weights, _) = load_config(folder), checkpoints.load_weights(folder)
        if not isinstance(config.network, AdoptedNetwork):
            return weights, config.class_names
        model, names = str(config.network.model), config.class_names
    else:
        found = _located(source)
        loaded = foreign.load_model(found)
        model, names = type(loaded).__name__, found.class_names
        weights = {f"model.{name}": value for name, value in loaded.state_dict().items()}
    ours = "unet." if model == "UNet2DModel" else "dit."
    renamed = {ours + name.removeprefix("model."): value for name, value in weights.items()}
    return {name.replace("unet.class_embedding.", "classes."): value for name, value in renamed.items()}, names


def _take_classes(
    name: str, mine: Tensor, other: Tensor, classes: tuple[str, ...], others: tuple[str, ...]
) -> list[str]:
    """Takes the rows of classes of the same name, and that of no class, which is the last. Returns what was left fresh."""
    if mine.shape[1:] != other.shape[1:]:
        return [f"{name} {tuple(mine.shape)}, {tuple(other.shape)} there"]
    known = [label for label in classes if label in others]
    with torch.no_grad():
        for label in known:
            mine[classes.index(label)] = other[others.index(label)]
        if len(other) == len(others) + 1:
            mine[-1] = other[-1]
    rest = len(classes) - len(known)
    return [f"{name} of {rest} of {len(classes)} classes"] if rest else []
