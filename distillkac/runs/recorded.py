"""A network's evaluations as CUDA graphs: recorded once for each shape of its inputs, replayed ever after.

Of a small network, or a small batch, a GPU waits longer for its kernels to be launched, one by one, than it computes; a
graph launches all of an evaluation at once. Recorded is the network alone, whose inputs (state, times, labels, weight, end of
the step) are all tensors, so that nothing in a graph depends on the batch, the step or the seed: fresh noise, guidance and the
steps of the integrator lie between the evaluations and are computed as ever, by every sampler.
"""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distillkac.flow.fields import guidance_embedding, interval_embedding

__all__ = ["Recorded", "cuda_graph"]

SHAPES = 4
"""Shapes that are recorded at most, each of which holds the memory of an evaluation: full and last batches, guided or not."""

ASKS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")
"""Operations that wait for values of a GPU."""

Answer = TypeVar("Answer")

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Of a computation that reads and writes the same memory every time: (what computes it again, the tensor that is filled)."""


def cuda_graph(compute: Callable[[], Answer]) -> tuple[Callable[[], None], Answer]:
    """A Recorder, also of what answers by several tensors. The computation runs once on a stream of its own before, as torch
    asks for, and is recorded there."""
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        compute()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Where a recording fails, torch leaves its own stream the current one. Other threads, such as those that make paths, may go
    # on allocating memory meanwhile.
    recording = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
    # Products write to workspaces that torch keeps for a stream until somebody frees them all, as its compiler does: a graph
    # that had one would write on. Asked for while it is recorded, they are the graph's own.
    torch._C._cuda_clearCublasWorkspaces()
    try:
        with torch.cuda.stream(current), recording:
            answer = compute()
    finally:
        torch._C._cuda_clearCublasWorkspaces()
    return graph.replay, answer


class Recorded:
    """A network (fields.Network) that answers as `network` does, by recordings: to the rounding of kernels that torch may
    choose otherwise while it records.

    network: in eval mode, whose weights stay where they are while this is used. record: what makes a recording. The first
    evaluation of a shape is the network's own, the second is recorded. Where that fails, or the network does what no graph can
    repeat (random numbers of torch's, values asked for, tensors of another device), a warning says so once, and all are its own
    from then on.
    Everything else than tensors that an own network depends on is as it was when it was recorded.
    """

    def __init__(self, network: Callable[..., Tensor], record: Recorder = cuda_graph) -> None:
        self.network, self.record = network, record
        self.guidance_embedding, self.interval_embedding = guidance_embedding(network), interval_embedding(network)
        self.null_class = getattr(network, "null_class", None)
        self.failed = False
        self._seen: dict[tuple[Any, ...], _Recording | None] = {}

    def __call__(self, *inputs: Tensor | None, **named: Tensor) -> Tensor:
        """The network's answer, in memory of its own."""
        given = (*inputs, *named.values())
        if self.failed or torch.is_grad_enabled():
            return self.network(*inputs, **named)
        autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        key = (tuple(named), autocast, torch.is_inference_mode_enabled(), *map(_shape, given))
        if key not in self._seen and len(self._seen) < SHAPES:
            self._seen[key] = None
            return self._watched(inputs, named)
        if key not in self._seen or self.failed:
            return self.network(*inputs, **named)
        if (recording := self._seen[key]) is None:
            try:
                recording = self._seen[key] = _Recording(self.network, self.record, inputs, tuple(named), given)
            except RuntimeError as error:
                return self._give_up(str(error).splitlines()[0] if str(error) else "no reason given", inputs, named)
        return recording(given)

    def _watched(self, inputs: tuple[Tensor | None, ...], named: dict[str, Tensor]) -> Tensor:
        x = inputs[0]
        assert x is not None  # the state
        with _Watch(x.device) as watch:
            answer = self.network(*inputs, **named)
        if watch.found:
            self._warn(f"it {watch.found}")
        return answer

    def _give_up(self, why: str, inputs: tuple[Tensor | None, ...], named: dict[str, Tensor]) -> Tensor:
        self._warn(why)
        return self.network(*inputs, **named)

    def _warn(self, why: str) -> None:
        self.failed = True
        self._seen.clear()
        kind = type(self.network).__name__
        warnings.warn(f"{kind} cannot be recorded as a CUDA graph, and is evaluated without: {why}", stacklevel=4)


class _Recording:
    """One shape: inputs that stay where they are, and what fills the answer from them."""

    def __init__(
        self,
        network: Callable[..., Tensor],
        record: Recorder,
        inputs: tuple[Tensor | None, ...],
        names: tuple[str, ...],
        given: tuple[Tensor | None, ...],
    ) -> None:
        self.inputs = tuple(None if value is None else value.clone() for value in given)
        plain, named = self.inputs[: len(inputs)], dict(zip(names, self.inputs[len(inputs) :], strict=True))
        cached = torch.is_autocast_cache_enabled()
        # Weights that autocast has in its cache are freed when it ends, and a graph would read on.
        torch.set_autocast_cache_enabled(False)
        try:
            # Streams and recordings are of the current device, which need not be that of the network.
            x = inputs[0]
            with torch.cuda.device(x.device) if x is not None and x.is_cuda else contextlib.nullcontext():
                self.replay, self.answer = record(lambda: network(*plain, **named))
        finally:
            torch.set_autocast_cache_enabled(cached)

    def __call__(self, given: tuple[Tensor | None, ...]) -> Tensor:
        for kept, value in zip(self.inputs, given, strict=True):
            if kept is not None and value is not None:
                kept.copy_(value)
        self.replay()
        return self.answer.clone()


class _Watch(TorchDispatchMode):
    """Notes what a recording could not repeat: random numbers of torch's, which a replay would draw again, values that are
    asked for, and tensors of another device, whose memory may be another's by then."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.found = device, ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if not self.found and _draws(func, args, kwargs or {}):
            self.found = f"draws random numbers of torch's ({name})"
        elif not self.found and name in ASKS:
            self.found = f"asks for values on the way ({name})"
        elif not self.found and self._elsewhere(name, (args, kwargs), answer):
            self.found = f"uses tensors of another device ({name})"
        return answer

    def _elsewhere(self, name: str, given: object, answer: object) -> bool:
        copies = name in ("_to_copy", "copy_")
        # A single number of another device goes into the recording as it is, but for one that is copied.
        values = tree_leaves((given, answer) if copies else given)
        tensors = [value for value in values if isinstance(value, Tensor) and (copies or value.dim() > 0)]
        return any(value.device != self.device for value in tensors)


def _draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether it draws random numbers; attention does where its dropout is not 0."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    names = [argument.name for argument in func._schema.arguments]
    if "dropout_p" not in names:
        return True
    place = names.index("dropout_p")
    return bool(kwargs.get("dropout_p", args[place] if len(args) > place else 0.0) > 0)


def _shape(value: Tensor | None) -> tuple[Any, ...] | None:
    return None if value is None else (tuple(value.shape), value.stride(), value.dtype, value.device)
