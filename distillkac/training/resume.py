"""What a training goes on from: the checkpoint of its folder, if it fits, or its start."""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from accelerate.utils import gather_object
from torch import nn

from distillkac.base.options import labelled
from distillkac.data.fingerprint import difference
from distillkac.flow.adopted import AdoptedNetwork
from distillkac.flow.network_config import NetworkConfig
from distillkac.runs import checkpoints, kept
from distillkac.runs.config import RunConfig, StudentConfig, load_config
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.own_network import OwnNetwork
from distillkac.training import averages, optimizer

# Of the data: where they lie is another matter than what they are. Of the network: how gradients are found.
FREE = {"data": ("path", "cache"), "network": ("checkpointing",)}
# Options of a student that its config has only where they are used.
SWITCHES = ("--inverse.pairs", "--inverse.adversarial", "--inverse.fake", "--pairs.by", "--pairs.slopes")


def goes_on(folder: Path, resume: bool) -> bool:
    """Whether a run is continued in the folder; False if one begins. Asked before images are read.

    Raises ValueError if it would overwrite another one's weights or the user's files.
    """
    if (keeper := kept.keeper(folder)) is not None:
        raise ValueError(
            f"{folder} is a checkpoint that {keeper} keeps, and removes in its time: copy it to a new place to train it there"
        )
    if not (folder / checkpoints.STATE).exists():
        best = folder / kept.BEST / checkpoints.CONFIG
        if (folder / checkpoints.EMA).exists() or kept.kept(folder) or best.exists():
            raise ValueError(
                f"{folder} holds weights of a run, but no {checkpoints.STATE} to go on from: choose another folder, or remove "
                "them"
            )
        _refuse_foreign(folder)
        return False
    if not resume:
        raise ValueError(
            f"{folder} already holds a checkpoint: add --resume (in Python resume=True) to continue it, or choose another "
            "folder"
        )
    if (chosen := checkpoints.chosen_average(folder)) is not None:
        raise ValueError(
            f"{folder} has the average {chosen} for its model, chosen by evaluate --keep-best, which a training would replace: "
            f"keep a copy of the folder for that, and move {checkpoints.ORIGINAL} to {checkpoints.EMA} here to go on"
        )
    return True


def check(folder: Path, config: RunConfig, resume: bool) -> RunConfig | None:
    """The saved config of the run that is continued, None if one begins.

    Raises ValueError as `goes_on` does, or if a resumed run would become another model. It may train longer, with other
    settings of the same optimizer and another preview, with and without --network.checkpointing, its data and --data.cache
    elsewhere; nothing else (`all_changes`). The help of --resume (train.py, distill.py) says the same.
    """
    if not goes_on(folder, resume):
        return None
    saved = load_config(folder)
    if (saved.student is None) != (config.student is None):
        raise ValueError(
            f"{folder} is the run of {'a teacher' if saved.student is None else 'a student'}: choose another"
        )
    if changed := list(all_changes(saved, config)):
        before, now = (" and ".join(words) for words in zip(*changed, strict=True))
        raise ValueError(f"{folder} was trained with {before}, which --resume cannot change to {now}")
    _check_data(folder, saved, config)
    if config.student is not None and saved.student is not None:
        _check_teacher(folder, saved.student, config.student)
    return saved


def _refuse_foreign(folder: Path) -> None:
    """Raises ValueError if a folder without a checkpoint holds files that a run would replace, and are not of one that died
    before its first: that has written its config, which comes first, and no weights."""
    weights, config = folder / checkpoints.MODEL, folder / checkpoints.CONFIG
    found = [weights.name] if weights.exists() else []
    if config.exists():
        try:
            load_config(folder)
        except ValueError as error:
            found.append(f"{config.name} ({error})")
    else:
        pictures = sorted((folder / kept.SAMPLES).glob("step-*.png"))
        others = (folder / checkpoints.METRICS, folder / kept.CURVES, *pictures[:1])
        found += [str(path.relative_to(folder)) for path in others if path.exists()]
    if found:
        raise ValueError(f"{folder} holds files that are not of a run: {', '.join(found)}; choose another folder")


def all_changes(saved: RunConfig, config: RunConfig) -> Iterator[tuple[str, str]]:
    """Of every option that may not change and did: as it was and as it is, in the words of the command line."""
    for f, option in labelled(RunConfig):
        before, now = getattr(saved, f.name), getattr(config, f.name)
        if f.name == "network" and {type(before), type(now)} != {NetworkConfig}:
            yield from _change("the network", _network_name(before), _network_name(now))
        elif f.name in ("data", "noise", "network"):
            if f.name == "network":  # a patch may be given as what it is by default
                before, now = (dataclasses.replace(network, patch=network.side) for network in (before, now))
            yield from changes(before, now, option, FREE.get(f.name, ()))
        elif f.name == "optim":  # the state of one is of no use to the other
            yield from _change(f"{option}.optimizer", before.optimizer, now.optimizer)
            for name in ("averages", "decays"):  # they are of all steps, from the first on
                yield from _change(f"{option}.{name}", getattr(before, name), getattr(now, name))
        elif f.name in ("consistency", "average_velocity", "times", "augmentation"):
            yield from changes(before, now, option)
        elif f.name in ("objective", "weight", "augment", "label_drop", "seed"):
            yield from _change(option, before, now)
        elif f.name == "student" and now is not None:
            yield from _change("--stages", (before.teacher_steps, before.num_steps), (now.teacher_steps, now.num_steps))
            for name in ("method", "rho", "shift", "w", "w_max"):
                yield from _change(f"--{name.replace('_', '-')}", getattr(before, name), getattr(now, name))
            if before.options:  # a student of an earlier version does not know
                was, are = ({word.split()[0]: word for word in student.options} for student in (before, now))
                # Of others that stand on one side alone an earlier version did not know.
                names = [name for name in was if name in are] + [
                    name for name in SWITCHES if (name in was) != (name in are)
                ]
                yield from (
                    (_words(was.get(name, f"{name} False")), _words(are.get(name, f"{name} False")))
                    for name in names
                    if was.get(name) != are.get(name)
                )


def changes(before, now, option: str, free: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Of every field of a dataclass of options that differs: as it was and as it is. option: name of the dataclass."""
    for f, name in labelled(type(now), option):
        if f.name not in free:
            yield from _change(name, getattr(before, f.name), getattr(now, f.name))


def _change(option: str, before, now) -> Iterator[tuple[str, str]]:
    if before != now:
        yield _shown(option, before), _shown(option, now)


def _network_name(network: NetworkConfig | OwnNetwork | AdoptedNetwork) -> str:
    """Of an own network the class: where it is defined may change, and its weights are compared with the checkpoint's."""
    if isinstance(network, AdoptedNetwork):
        return f"{network.model} ({network.schedule.name}, {network.prediction})"
    return network.backbone if isinstance(network, NetworkConfig) else network.module.rsplit(".", 1)[-1]


def _words(option: str) -> str:
    """A student's option, whose flags are written out."""
    name, value = option.split(" ", 1)
    return {"True": name, "False": f"no {name}"}.get(value, option)


def _shown(option: str, value) -> str:
    if value is None or value is False or value == ():
        return f"no {option}"
    if option == "--stages":
        return f"{option} {','.join(map(str, value))}"
    words = value if isinstance(value, tuple) else () if value is True else (value,)
    return " ".join([option, *(f"{word:g}" if isinstance(word, float) else str(word) for word in words)])


def _check_data(folder: Path, saved: RunConfig, config: RunConfig) -> None:
    place = config.data.path or f"the built-in {config.data.builtin}"
    if saved.shape != config.shape:
        sizes = [" x ".join(map(str, shape)) for shape in (saved.shape, config.shape)]
        raise ValueError(f"{folder} was trained on images of {sizes[0]}, but those of {place} are {sizes[1]}")
    before, now = (c.latent and dataclasses.replace(c.latent, vae="") for c in (saved, config))
    if before != now:
        raise ValueError(f"{place}: not the latents that {folder} was trained on, but of another autoencoder")
    known = saved.fingerprint
    if known is None and config.fingerprint is not None:
        warnings.warn(
            f"{folder} was made by an earlier version, which kept nothing of its images to know them by: {place} is taken for "
            "them",
            stacklevel=3,
        )
    if config.fingerprint is not None:
        problem = difference(known or config.fingerprint, saved.class_names, config.fingerprint, config.class_names)
        if problem is not None:
            raise ValueError(
                f"{place}: not the images that {folder} was trained on: {problem}; put those back, say with --data.path where "
                "they are, or train in another folder"
            )


def _check_teacher(folder: Path, saved: StudentConfig, config: StudentConfig) -> None:
    """Of students of earlier versions, which do not know, nothing is asked."""
    for before, now, who in (
        (saved.teacher, config.teacher, "the teacher"),
        (saved.before, config.before, "the network of the stage before"),
    ):
        if before is not None and now is not None and before != now:
            raise ValueError(
                f"{folder} was distilled from other weights of {who} than those that are there now, which was trained on or "
                "made anew since: choose another --out, or remove this student and those after it to distil them again"
            )


def checkpoint(folder: Path, network: nn.Module, averaged: nn.Module, optim: OptimConfig) -> dict | None:
    """The state that `checkpoints.save` wrote, or None if there is none yet.

    network, averaged: what is trained, and the part of it that the moving average follows. Raises ValueError naming the file
    and the entry if weights, average or the optimizer's moments do not fit.
    """
    state, path = checkpoints.load_state(folder), folder / checkpoints.STATE
    if state is None:
        return None
    checkpoints.check_fit(path, state["model"], network.state_dict())
    checkpoints.check_fit(path, state["ema"], averaged.state_dict())
    parameters = [
        (p.shape, optimizer.STATE[group.get("muon", False)])
        for group in optimizer.parameter_groups(network, optim)
        for p in group["params"]
    ]
    _check_averages(path, state, averaged, optim)
    for number, moments in state["optimizer"]["state"].items():
        shape, names = parameters[number] if number in range(len(parameters)) else (None, None)
        fits = moments.keys() == names and all(
            value.shape == (() if name == "step" else shape) for name, value in moments.items()
        )
        if not fits:
            raise ValueError(f"{path}: does not fit the network of {checkpoints.CONFIG}: optimizer state {number}")
    return state


def _check_averages(path: Path, state: dict, averaged: nn.Module, optim: OptimConfig) -> None:
    expected, found = averages.names(optim), state.get("averages", {})
    if sorted(found) != sorted(expected):
        raise ValueError(
            f"{path}: has the further averages {', '.join(found) or 'none'}, but those of {checkpoints.CONFIG} are "
            f"{', '.join(expected) or 'none'}"
        )
    parameters = dict(averaged.named_parameters())
    for name, values in found.items():
        checkpoints.check_fit(
            path, {f"{name}: {k}": v for k, v in values.items()}, {f"{name}: {k}": v for k, v in parameters.items()}
        )


def start(network: nn.Module, averaged: nn.Module, further: Iterable[str] = ()) -> dict:
    """The same for a network before its first step, copied. further: names of further averages."""
    model, ema = (
        {name: value.detach().cpu().clone() for name, value in part.state_dict().items()}
        for part in (network, averaged)
    )
    state = {"step": 0, "model": model, "ema": ema, "optimizer": {"state": {}}, "ema_updates": 0}
    return state | {"averages": {name: ema for name in further}}


def check_alike(network: nn.Module) -> None:
    """Raises ValueError, in all processes, if these have given networks of different first weights: some ways to share the work
    would train as many models."""
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    digests = gather_object([checkpoints.digest_of(0, weights)])
    if len(set(digests)) > 1:
        raise ValueError(
            "the processes begin with networks of different weights: give all of them the same, such as by torch.manual_seed "
            "before it is made"
        )
