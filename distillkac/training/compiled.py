"""`--optim.compile`: networks whose calls torch compiles, forward and backward.

A module stays what it is, its compiled call lies beside it (as nn.Module.compile has it): names, weights, hooks and copies are
those of the module, so checkpoints, averages and shards know nothing of it, and no copy is compiled. What is not the network is
left as it is: losses and noise are an op or two, which are one kernel each already.

Nothing of torch's compiler is imported before it is asked for: that takes longer than many a command.
"""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from distillkac.runs.optim_config import OptimConfig

_plain: ContextVar[bool] = ContextVar("plain", default=False)


def compile_calls(
    network: nn.Module, accelerator: Accelerator, optim: OptimConfig, one_call: bool = False
) -> nn.Module:
    """Where `optim.compile` is set, has the calls of a network compiled, in place; returns the network.

    Of one with `compiled_parts()` those of the networks that it lists. one_call: whether each update of the optimizer has one
    call of the network, and its gradient; on one GPU both are CUDA graphs then, which are started at once where their hundreds
    of kernels would be one by one. Prints one sentence, once in a program, where nothing can be compiled here.
    """
    if not optim.compile:
        return network
    say: Callable[[str], None] = _say if accelerator.is_local_main_process else _nothing
    if (reason := problem(accelerator.device.type)) is not None:
        say(f"--optim.compile: torch's compiler does not work here, the networks are not compiled: {reason}")
        return network
    network = getattr(network, "module", network)  # inside what wraps it for several processes
    # A graph answers in memory that its next call writes: all that hangs on an answer must be over by then.
    graphs = one_call and accelerator.device.type == "cuda" and accelerator.num_processes == 1
    named = getattr(network, "compiled_parts", None)
    for part in named() if callable(named) else [network]:
        part._compiled_call_impl = _Call(part, say, graphs)
    return network


Calls = list[tuple[nn.Module, dict[str, Any]]]
_OF_CALLS = ("forward", "_original_forward", "_compiled_call_impl")


def given_calls(network: nn.Module) -> Calls:
    """What decides how a network and its parts are called and lies beside their classes: set by a caller, by Accelerate for
    mixed precision, by `compile_calls`."""
    return [(part, {name: vars(part).get(name) for name in _OF_CALLS}) for part in network.modules()]


@contextlib.contextmanager
def called_as(inside: Calls, afterwards: Calls) -> Iterator[None]:
    """Networks are called the one way inside, and the other way afterwards."""
    try:
        _set(inside)
        yield
    finally:
        _set(afterwards)


def _set(calls: Calls) -> None:
    for part, values in calls:
        for name, value in values.items():
            vars(part).pop(name, None)
            if value is not None:
                vars(part)[name] = value


@contextlib.contextmanager
def plain_calls() -> Iterator[None]:
    """Inside, no compiled call is used: for numbers of rows that change from step to step, each of which would be compiled, and
    for forward mode, which compiled code has not."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


class _Call:
    """The compiled call of a network, in the thread that trains: others may ask for any number of rows."""

    def __init__(self, network: nn.Module, say: Callable[[str], None], graphs: bool) -> None:
        self.name, self.say, self.thread = type(network).__name__, say, threading.get_ident()
        self.plain: Callable[..., Any] = network._call_impl
        # One program a shape: batches have one, the last one too. Dropout draws what it draws without the compiler, which the
        # two sides of a consistency loss rely on.
        self.compiled: Callable[..., Any] | None = torch.compile(
            self.plain, dynamic=False, options={"fallback_random": True, "triton.cudagraphs": graphs}
        )

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self.compiled is None or _plain.get() or threading.get_ident() != self.thread:
            return self.plain(*inputs, **named)
        from torch._dynamo.exc import TorchDynamoException  # is there since the first call was prepared

        try:
            return self.compiled(*inputs, **named)
        except TorchDynamoException as error:  # forward and backward are compiled before anything of either is run
            self.compiled = None
            self.say(f"--optim.compile: {self.name} is not compiled: {_reason(error)}")
            return self.plain(*inputs, **named)


@functools.cache
def problem(device_type: str) -> str | None:
    """Why nothing can be compiled for devices of this kind, found by compiling a sum and its gradient; None if it can be."""
    import torch._dynamo  # which brings the exceptions of the compiler, too

    # diffusers asks for versions of torch by such a function, whose answer does not change.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    x = torch.ones(2, device=device_type, requires_grad=True)
    try:
        torch.compile(_sum_of_squares, dynamic=False)(x).backward()
    except Exception as error:  # whatever a compiler that is not there, or not whole, makes of it
        return _reason(error)
    return None


def _sum_of_squares(x: torch.Tensor) -> torch.Tensor:
    return (x * x).sum()


def _reason(error: Exception) -> str:
    """Its first line that is no heading."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line and not line.endswith(":")), type(error).__name__)


@functools.cache
def _say(sentence: str) -> None:
    """Prints it the first time."""
    print(sentence, flush=True)


def _nothing(sentence: str) -> None:
    """What the other processes of a machine say."""
