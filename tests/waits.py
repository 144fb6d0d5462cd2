"""Modes that fail where a program would wait for its device, tried without one: tensors of the device "meta" stand for those of
a GPU. They have no values, so whatever needs one fails there too."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
# What needs values of its arguments before it can give an answer, of these names or shapes.
ASKS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique", "_unique2", "unique_dim")
MADE_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray)


class WaitError(AssertionError):
    pass


class _Dispatched(TorchDispatchMode):
    """Below autograd: what is run, forward and backward."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, tensors = func.__name__.split(".")[0], [a for a in args if isinstance(a, torch.Tensor)]
        if name in ASKS and any(t.device == self.device for t in tensors):
            raise WaitError(f"{name} asks for values")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            indices = [i for i in args[1] if i is not None]
            if any(i.dtype in (torch.bool, torch.uint8) for i in indices) or (
                self.device.type != "cpu" and any(i.device != args[0].device for i in indices)
            ):
                raise WaitError(f"{name} by a mask, or by numbers that lie elsewhere")
        if name == "_to_copy" and (to := kwargs.get("device")) is not None:
            self._moved(args[0].device, torch.device(to), kwargs.get("non_blocking", False))
        if name == "copy_":
            waits_not = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            self._moved(args[1].device, args[0].device, waits_not)
        return func(*args, **kwargs)

    def _moved(self, origin: torch.device, to: torch.device, non_blocking: bool) -> None:
        if origin != to and (to.type == "cpu" or not non_blocking):
            raise WaitError(f"a copy from {origin} to {to} is waited for")


class _Called(TorchFunctionMode):
    """Above: tensors of numbers of the program, which torch copies to the device and waits for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to = torch.device(kwargs.get("device") or "cpu")
        there = args and isinstance(args[0], torch.Tensor) and args[0].device == to
        if func in MADE_FROM_NUMBERS and to.type != "cpu" and not there:
            raise WaitError(f"{func.__name__} copies numbers to {to}")
        return func(*args, **kwargs)


class no_waits:  # a context, like torch.no_grad
    """Raises WaitError inside, where the program would wait. device: whose values may not be asked for."""

    def __init__(self, device: torch.device = DEVICE) -> None:
        self.modes = _Called(), _Dispatched(device)

    def __enter__(self) -> None:
        for mode in self.modes:
            mode.__enter__()

    def __exit__(self, *raised) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*raised)
