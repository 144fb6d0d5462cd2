"""Networks that were given in Python: what a run keeps of one, and what is asked of it before it is trained."""

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from distillkac.base.ranges import in_ranges
from distillkac.flow.fields import guidance_embedding, interval_embedding
from distillkac.flow.velocity_from import Prediction, VelocityFrom, refuse_wrapped
from distillkac.runs import checkpoints
from distillkac.runs.understood import meaning


@dataclass(frozen=True)
@in_ranges("network", parameters="[0, 1e15]", meaning="[-1e12, 1e12]", answers="[-1e12, 1e12]")
class OwnNetwork:
    """In place of NetworkConfig in the config of a run whose network is a module of the user's. No command can build it, and
    none has options for it.

    An own network is any nn.Module with forward(x (B, C, H, W), t (B,), y (B,)) -> velocity like x, float32; t in [0, 1], y
    int64 classes. Two attributes say what else it can: `null_class`, the label that means "no class", which must be the
    number of classes (needed for guidance); `guidance_embedding` = True, that forward takes a fourth argument w (B,);
    `interval_embedding` = True, that it takes a last argument r (B,), the time that the step leads to (average velocities).
    """

    module: str
    """Its class, with the module that it comes from; of a VelocityFrom that of the model inside."""
    parameters: int
    """How many numbers are trained."""
    guidance_embedding: bool = False
    """Takes the guidance weight w as an input."""
    interval_embedding: bool = False
    """Takes the end r of a step as an input."""
    prediction: Prediction | None = None
    """What the model inside a VelocityFrom answers with."""
    meaning: tuple[float, ...] = ()
    """Of a VelocityFrom, see understood.py."""
    answers: tuple[float, ...] = ()
    """Of an adopted network, see understood.py."""

    @classmethod
    def of(cls, network: nn.Module) -> "OwnNetwork":
        inside, prediction = (
            (network.model, network.prediction) if isinstance(network, VelocityFrom) else (network, None)
        )
        kind = inside if hasattr(inside, "__qualname__") else type(inside)  # a function has a name of its own
        count = sum(p.numel() for p in network.parameters() if p.requires_grad)
        says = guidance_embedding(network), interval_embedding(network)
        return cls(f"{kind.__module__}.{kind.__qualname__}", count, *says, prediction, meaning(network))

    def refusal(self, folder: Path) -> str:
        """Why the network cannot be built, and what to do."""
        name = self.module.rsplit(".", 1)[-1]
        made = f"{name}(...)" if self.prediction is None else f"VelocityFrom({name}(...), process, {self.prediction!r})"
        return (
            f"{folder} was trained with a network given in Python, {self.module}, which cannot be built from its config: open "
            f"it in Python with distillkac.runs.open_run({str(folder)!r}, network={made})"
        )


def check_attributes(network: nn.Module, num_classes: int) -> None:
    """Raises ValueError naming the class if what is no module is given, one whose label for no class is another, or one whose
    `guidance_embedding` or `interval_embedding` is no bool."""
    if not isinstance(network, nn.Module):
        raise ValueError(f"network must be a torch.nn.Module, got {network!r:.80}")
    guidance_embedding(network)
    interval_embedding(network)
    null_class = getattr(network, "null_class", None)
    # Neither 3.0 nor tensor(3), which are equal to 3 and serve for some of what is asked of a label only.
    if null_class is not None and (type(null_class) is not int or null_class != num_classes):
        told = "" if type(null_class) is int else f", a {type(null_class).__name__} and not an int"
        raise ValueError(
            f"{type(network).__name__}.null_class, the label that means no class, must be {num_classes}, the number of "
            f"classes, got {null_class!r}{told}"
        )


def check_network(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, num_classes: int, weightless: bool = False
) -> None:
    """Raises ValueError naming the class if the network is not what OwnNetwork says, or cannot be copied and saved.

    Asked once, of a copy, in eval and in train mode: the network itself stays as it is. x: (n, C, H, W) float32 images. y:
    (n,) their classes. weightless: it is a teacher that needs nothing to train.
    """
    name = type(network).__name__
    check_attributes(network, num_classes)
    refuse_wrapped("network", network)
    if torch.is_inference_mode_enabled():
        raise ValueError("nothing can be trained under torch.inference_mode(): train outside of it")
    _check_weights(network)
    tried = copied(network)
    names = _check_saving(tried)
    for training in (False, True):
        _check_answer(tried.train(training), x, y, weightless)
    if new := sorted(names ^ tried.state_dict().keys()):
        raise ValueError(f"{name}.forward adds or removes weights, {new[0]}: make all of them in __init__")


def copied(network: nn.Module) -> nn.Module:
    """A deep copy. Raises ValueError saying why there can be none; the moving average, students and opened runs are copies."""
    name, first = type(network).__name__, next(network.parameters(), None)
    try:
        other = copy.deepcopy(network)
    except Exception as error:  # whatever the members of a user's module raise
        kept = _with_graph(network)
        cause = f"{kept} is a tensor with a graph, which the old weight_norm keeps, too" if kept else _reason(error)
        raise ValueError(
            f"{name} cannot be copied with copy.deepcopy, as its moving average must be: {cause}: keep no tensor with a graph, "
            "no generator and no lock in the module"
        ) from error
    again = next(other.parameters(), None) if type(other) is type(network) else None
    if other is network or (first is not None and (again is None or again.data_ptr() == first.data_ptr() != 0)):
        raise ValueError(f"{name}.__deepcopy__ must return a new {name} with weights of its own: omit it, or mend it")
    return other


def _with_graph(network: nn.Module) -> str | None:
    """The member of the module that is a computed tensor, the usual reason why a module cannot be copied."""
    for place, part in network.named_modules():
        for member, value in vars(part).items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                return f"{place}.{member}".lstrip(".")
    return None


def _check_answer(network: nn.Module, x: torch.Tensor, y: torch.Tensor, weightless: bool) -> None:
    """Raises ValueError if forward, in the mode that the network is in, does not answer as it must."""
    call = f"{type(network).__name__}.forward(x, t, y)" + (" in train mode" if network.training else "")
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    before, y = x.to(device), y.to(device)
    x, t = before.clone(), torch.linspace(0.25, 0.75, len(x), dtype=torch.float32, device=device)
    weights = (torch.ones_like(t),) if guidance_embedding(network) else ()
    end = {"r": t / 2} if interval_embedding(network) else {}
    more = f"{', w like t' if weights else ''}{', r like t' if end else ''}"
    told = f"x {tuple(x.shape)} float32, t {tuple(t.shape)} float32{more} and y int64"
    try:
        with torch.random.fork_rng(), torch.enable_grad():  # as in training, where the caller may have it off
            u = network(x, t, y, *weights, **end)
    except Exception as error:  # whatever the module of a user raises
        raise ValueError(f"{call} failed for {told}: {_reason(error)}") from error
    if not isinstance(u, torch.Tensor) or u.shape != x.shape or u.dtype != x.dtype:
        got = f"{u.dtype} {tuple(u.shape)}" if isinstance(u, torch.Tensor) else type(u).__name__
        raise ValueError(f"{call} must return a velocity like x, torch.float32 {tuple(x.shape)}, got {got}")
    if not torch.isfinite(u).all():
        raise ValueError(f"{call} returned values that are not finite for {told}")
    if not torch.equal(x, before):
        raise ValueError(f"{call} changes x in place, which is the state of an integrator: copy it first")
    if not u.requires_grad and not weightless and not any(p.requires_grad for p in network.parameters()):
        raise ValueError(
            f"all parameters of {type(network).__name__} have requires_grad False: make it True for those to train"
        )
    if not u.requires_grad and not weightless:
        raise ValueError(
            f"{type(network).__name__} has no parameter that its answer depends on: there is nothing to train"
        )


def _check_weights(network: nn.Module) -> None:
    """Raises ValueError naming a parameter or buffer that cannot be trained, averaged or saved."""
    name, state = type(network).__name__, network.state_dict()
    parameters = dict(network.named_parameters(remove_duplicate=False))
    trained = {entry for entry, parameter in parameters.items() if parameter.requires_grad}
    entries = parameters | state
    for entry, value in entries.items():
        if problem := _problem(value, entry in trained):
            raise ValueError(f"{name}: {entry} {problem}")
    if hidden := [entry for entry, _ in network.named_parameters() if entry not in state]:
        raise ValueError(
            f"{name}: the parameter {hidden[0]} is not in its state_dict: do not rename or leave out entries"
        )
    # Tensors in one memory would be saved by one name, and averaged by two.
    order = list(entries)
    places = sorted((v.data_ptr(), order.index(entry), _extent(v)) for entry, v in entries.items() if v.numel())
    pairs = [{n, m} for (a, n, size), (b, m, _) in itertools.pairwise(places) if b < a + size]
    if pairs:
        one, other = (order[number] for number in min(map(sorted, pairs)))
        kind = "parameter" if {one, other} <= parameters.keys() else "memory"
        raise ValueError(
            f"{name} has one {kind} by two names, {one} and {other}: keep it in one place, and let forward use it twice"
        )


def _problem(value: object, trained: bool) -> str | None:
    """What keeps an entry of a state dict from being trained or saved."""
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}, and a checkpoint holds tensors only: keep it out of the state_dict"
    if nn.parameter.is_lazy(value):
        return "has no shape yet: call the network once, on a few images, before it is trained"
    if value.is_meta:
        return 'has no values, it lies on the device "meta": make the network on the CPU or the GPU'
    if type(value.detach()) is not torch.Tensor or value.layout != torch.strided:
        return f"is a {type(value.detach()).__name__} of layout {value.layout}: only dense tensors are saved"
    if value.is_inference():
        return "was made under torch.inference_mode(), and cannot be trained: make the network outside"
    if trained and value.is_complex():
        return f"is {value.dtype}, and complex weights are not trained: keep it as real numbers, torch.view_as_real"
    if trained and value.dtype not in (torch.float32, torch.float64):
        return (
            f"is {value.dtype}, and such weights are too coarse for their moving average: keep the weights float32, and "
            'compute in bfloat16 with OptimConfig(precision="bf16"), --optim.precision bf16'
        )
    if not torch.isfinite(value).all():
        return (
            "holds values that are not finite, which no checkpoint may hold: a constant such as a mask is left out of it with "
            "register_buffer(..., persistent=False)"
        )
    return None


def _extent(value: torch.Tensor) -> int:
    """Bytes from the first to the last element of a tensor that has some."""
    last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return (last + 1) * value.element_size()


def _check_saving(network: nn.Module) -> set[str]:
    """Names of its state dict. Raises ValueError if it does not come back from a file; the network's weights are loaded."""
    name, saved = type(network).__name__, {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    for entry, value in saved.items():
        try:
            checkpoints.to_safetensors({entry: value}, {})
        except Exception as error:  # the library has several of its own
            raise ValueError(f"{name}: {entry} cannot be saved: {_reason(error)}") from error
    try:
        network.load_state_dict({entry: value.clone() for entry, value in saved.items()})
    except Exception as error:  # hooks of the user, too
        raise ValueError(f"{name} cannot load what its state_dict gives: {_reason(error)}") from error
    return set(saved)


def _reason(error: Exception) -> str:
    """Its kind, and its first line that is no heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.strip().endswith(":")]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
