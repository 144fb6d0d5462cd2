"""Plain calls skip the Python checks and autograd's rule; whoever wants a gradient, traces or transforms still gets both."""

import subprocess
import sys

import pytest
import torch

from distillkac import ops
from distillkac.ops import _arguments as given
from distillkac.ops import _autograd, _quick
from tests.ops.op_cases import A, C, tensors

X, U, V, W = tensors((3, 8))
T = torch.ones(3)
CALLS = {
    "kac_noise": lambda **more: ops.kac_noise(T, (8,), "telegraph", A, C, 1, **more),
    "kac_velocity": lambda x=X, **more: ops.kac_velocity(x, T, "planar", A, C, **more),
    "kac_pair": lambda x=X, **more: ops.kac_pair(x, T, "telegraph", A, C, seed=3, **more),
    "kac_pair to t_to": lambda x=X, **more: ops.kac_pair(x, T, "planar", A, C, "cosine", t_to=T / 2, **more),
    "guided_velocity": lambda x=X, **more: ops.guided_velocity(x, U, 1.5, **more),
    "guided_velocity, limited": lambda x=X, **more: ops.guided_velocity(x, U, 1.5, 0.3, "planar", **more),
    "guided_step": lambda x=X, **more: ops.guided_step(x, U, V, W, 1.5, 0.1, 0.2, **more),
    "guided_step, bare": lambda x=X, **more: ops.guided_step(x, U, None, None, None, 0.1, None, 0.5, **more),
    "endpoint_loss": lambda x=X, **more: ops.endpoint_loss(x, U, V, T, **more),
}
QUICK = {
    "kac_noise": "noise",
    "kac_velocity": "velocity",
    "kac_pair": "pair",
    "kac_pair to t_to": "pair_to",
    "guided_velocity": "guided",
    "guided_step": "step",
    "endpoint_loss": "loss",
}
OUTS = {name: 3 if "t_to" in name else 2 if name.startswith(("kac_pair", "guided_step")) else 1 for name in CALLS}
every_call = pytest.mark.parametrize("name", CALLS)


def flat(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.fixture
def checks(monkeypatch):
    """The names of the checks that were asked."""
    asked = []
    for name in ("tensors", "fixed_rows", "names"):
        whole = getattr(given, name)
        monkeypatch.setattr(
            given, name, lambda *a, whole=whole, name=name, **more: (asked.append(name), whole(*a, **more))[1]
        )
    return asked


@every_call
@pytest.mark.parametrize("filled", [False, True])
def test_a_plain_call_asks_no_check(name, filled, checks, monkeypatch):
    if filled and name.startswith("guided_velocity"):
        pytest.skip("has no out")
    out = tuple(torch.full_like(X, torch.nan) for _ in range(OUTS[name]))
    more = {"out": out if len(out) > 1 else out[0]} if filled else {}
    versions = [tensor._version for tensor in out]
    quick = flat(CALLS[name](**more))
    assert checks == []
    if filled:
        assert all(tensor._version > before for tensor, before in zip(out, versions, strict=True))
    for call in (*QUICK.values(), "noise_into"):
        monkeypatch.setattr(_quick, call, lambda *_: NotImplemented)
    assert all(map(torch.equal, quick, flat(CALLS[name]())))  # the bits of a call with all checks
    assert checks


@every_call
def test_a_plain_call_goes_around_autograd(name, monkeypatch):
    """Every time, not only the first."""
    asked = []
    whole = _autograd._below
    monkeypatch.setattr(_autograd, "_below", lambda *a: (asked.append(name), whole(*a))[1])
    for _ in range(3):
        CALLS[name]()
    assert asked == []
    monkeypatch.setattr(_quick, QUICK[name.partition(",")[0]], lambda *_: NotImplemented)
    CALLS[name]()
    assert asked == [name]


@every_call
def test_a_wrong_argument_is_asked_about(name, checks):
    x, op = torch.zeros(4, 8), name.partition(" ")[0].rstrip(",")
    call = (lambda: ops.kac_noise(T, (True,), "telegraph", A, C, 1)) if name == "kac_noise" else lambda: CALLS[name](x)
    with pytest.raises(ValueError, match=f"^{op}: "):
        call()
    assert checks


@every_call
def test_no_gradient_is_lost(name):
    """Autograd records; torch.func.grad, which the ops have not, is refused by torch."""
    if name == "kac_noise":
        pytest.skip("not differentiable")

    def total(x):
        return sum(part.square().sum() for part in flat(CALLS[name](x)))

    leaf = X.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(total(leaf), leaf)
    assert wanted.abs().max() > 0
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(total)(X)
    with torch.no_grad():
        assert not any(part.requires_grad for part in flat(CALLS[name](leaf)))


def test_a_torch_without_these_insides_is_served_by_the_checks():
    """The C++ part looks up private names of torch; another version may lack one."""
    program = (
        "import torch; from distillkac import ops; x, t = torch.ones(3, 8), torch.ones(3)\n"
        "del torch._C._increment_version\n"
        "from distillkac.ops import _quick\n"
        "assert _quick.velocity(None, x, t, 'planar', 25.0, 2.0) is NotImplemented\n"
        "assert _quick.velocity(None, x, t, 'planar', 25.0, 2.0) is NotImplemented\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
