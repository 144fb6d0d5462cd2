"""Every argument position of every op gets everything: a right answer, or a ValueError that names op and argument.

`DISTILLKAC_FUZZ_CASES` changes the number of cases of the slow test.
"""

import inspect
import os
import resource

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from distillkac import ops
from distillkac.ops import interop
from tests.ops import op_oracle
from tests.ops.op_arguments import TENSORS, right_arguments, wrong_value

OPS = list(TENSORS)
NAMES = {op: list(inspect.signature(getattr(ops, op)).parameters) for op in OPS}
OUTPUTS = {"kac_pair": 2, "guided_step": 2}
SLOW_CASES = int(os.environ.get("DISTILLKAC_FUZZ_CASES", 100_000))


@pytest.fixture(scope="module", autouse=True)
def memory_limit():
    """A surprising allocation of gigabytes fails here, as a MemoryError or RuntimeError that no test accepts."""
    if os.environ.get("DISTILLKAC_FUZZ_MEMORY") == "unlimited":  # under AddressSanitizer
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="utf-8") as statm:
        present = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (present + (6 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(cases):
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(max_examples=cases, deadline=None, derandomize=True, suppress_health_check=checks, database=None)


def tensors_in(arguments):
    flat = [v for value in arguments.values() for v in (value if isinstance(value, (tuple, list)) else [value])]
    return [v for v in flat if isinstance(v, torch.Tensor)]


def comparable(tensor):
    """Whether its values can be kept cheaply, to see that they do not change."""
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_nested and tensor.numel() < 1e6


def kept(arguments, changed=()):
    """Copies of the tensors whose values must not change."""
    pairs = [(t, t.detach().clone(), t._version) for t in tensors_in(arguments) if comparable(t)]
    return [pair for pair in pairs if not any(pair[0] is other for other in changed)]


def assert_kept(pairs):
    for tensor, before, version in pairs:
        assert tensor._version == version
        if tensor.is_quantized:
            continue
        assert torch.equal(tensor.detach().nan_to_num(7), before.nan_to_num(7))
        if before.is_floating_point():
            assert torch.equal(tensor.detach().isnan(), before.isnan())


def assert_names(error, op, arguments):
    """`op: ... argument ...`, in one line that may be read."""
    message = str(error)
    assert message.startswith(f"{op}: "), message
    assert any(name in message for name in arguments), message
    assert len(message) < 1200


def plain(arguments):
    """For the oracle: numbers as floats, inputs without autograd."""
    result = {}
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            value = value.detach()
        elif name in ("a", "c", "kappa", "w", "h", "h_prev", "max_speed") and value is not None:
            value = float(value)
        elif name in ("seed", "offset") and not isinstance(value, torch.Generator):
            value = int(value)
        result[name] = value
    if "h_prev" in result and result["h_prev"] is None:
        result["h_prev"] = 1.0
    return result


def check_answer(op, arguments, result):
    flat = result if isinstance(result, tuple) else (result,)
    if any(tensor.is_meta for tensor in flat):
        assert all(tensor.is_meta for tensor in (*flat, *tensors_in(arguments)))
        return
    result = tuple(r.detach() for r in flat)
    getattr(op_oracle, op)(result if len(result) > 1 else result[0], **plain(arguments))


def call_and_check(op, arguments, function=None, allowed=ValueError):
    """Returns the error, or None where the answer was right."""
    before = kept(arguments)
    try:
        result = (function or getattr(ops, op))(**arguments)
    except allowed as error:
        assert_names(error, op, NAMES[op])
        assert_kept(before)
        return error
    assert_kept(before)
    check_answer(op, arguments, result)
    return None


def raw(op, a):
    """The schema of torch.ops.distillkac in terms of the arguments of distillkac.ops."""
    lib = torch.ops.distillkac
    seed = lambda: (0, a["seed"]) if isinstance(a["seed"], torch.Tensor) else (a["seed"], None)  # noqa: E731
    row = lambda name: (0.0, a[name]) if isinstance(a[name], torch.Tensor) else (a[name], None)  # noqa: E731
    if op == "kac_noise":
        return lib.kac_noise(a["t"], a["size"], a["process"], a["a"], a["c"], *seed(), a["offset"], a["dtype"])
    if op == "kac_velocity":
        return lib.kac_velocity(a["k"], a["t"], a["process"], a["a"], a["c"])
    if op == "kac_pair":
        names = ("x0", "t", *(() if a["t_to"] is None else ("t_to",)), "process", "a", "c", "f", "g", "kappa")
        function = lib.kac_pair.default if a["t_to"] is None else lib.kac_pair.to
        return function(*(a[name] for name in names), *seed(), a["offset"])
    if op == "guided_velocity":
        return lib.guided_velocity(a["u_cond"], a["u_uncond"], *row("w"), a["max_speed"], a["process"])
    if op == "guided_step":
        (w, ws), (h, hs), (h_prev, h_prevs) = row("w"), row("h"), row("h_prev")
        states = (a["x"], a["u_cond"], a["u_uncond"], a["u_prev"])
        return lib.guided_step(*states, w, h, h_prev, ws, hs, h_prevs, a["max_speed"], a["process"])
    return lib.endpoint_loss(a["x"], a["u"], a["x_end"], a["delta"], a["weight"])[0]


def one_case(data, op):
    """Right arguments; then one or two of them made strange, at ops and at the raw operators beneath."""
    arguments = data.draw(right_arguments(op))
    error = call_and_check(op, arguments)
    assert error is None, error
    names = data.draw(some.lists(some.sampled_from(list(arguments)), min_size=1, max_size=2, unique=True))
    arguments = arguments | {name: data.draw(wrong_value(name, arguments[name])) for name in names}
    call_and_check(op, arguments)
    try:
        assert isinstance(raw(op, arguments), (torch.Tensor, tuple))
    except ValueError as error:
        assert_names(error, op, NAMES[op])
    except (RuntimeError, TypeError, NotImplementedError):
        pass  # torch's own refusal of Python types, None and backends


def fresh(op, arguments, like):
    """Memory for the results, filled with NaN."""
    shape = (len(arguments["t"]), *arguments["size"]) if op == "kac_noise" else like.shape
    dtype = {"kac_noise": arguments.get("dtype"), "endpoint_loss": torch.float32}.get(op) or like.dtype
    count = OUTPUTS.get(op, 1) + (arguments.get("t_to") is not None)
    return [torch.full(shape, torch.nan, dtype=dtype) for _ in range(count)]


def overlapping(x):
    """Two contiguous tensors like x with its values, the second one element further in the same memory."""
    memory = torch.cat([x.flatten(), x.flatten()[-1:]])
    return memory[:-1].view(x.shape), memory[1:].view(x.shape)


def one_case_of_out(data, op):
    """`out` of each kind: new memory and the argument itself give the same answer, a part of an argument is refused."""
    arguments = data.draw(right_arguments(op))
    wanted = getattr(ops, op)(**arguments)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    first = (TENSORS[op] or ("t",))[0]
    like = arguments[first]
    kind = data.draw(some.sampled_from(["new", "in place", "overlap", "strided", "wrong"]))
    out = fresh(op, arguments, like)
    give = lambda tensors: tuple(tensors) if op in OUTPUTS else tensors[0]  # noqa: E731
    if kind == "wrong":
        wrong = give([data.draw(wrong_value("x", out[0])), *out[1:]])
        error = call_with_out(op, arguments, wrong)
        assert error or wrong is None or isinstance(wrong, (torch.Tensor, tuple))
        return
    if kind == "strided":
        out[-1] = torch.stack([out[-1], out[-1]], -1)[..., 0]
        if not out[-1].is_contiguous():
            assert call_with_out(op, arguments, give(out))
        return
    if kind != "new" and first != "t" and like.dtype == out[0].dtype:
        if kind == "in place":
            out[0] = arguments[first] = like.contiguous().clone()
        elif like.numel() > 1:
            arguments[first], out[0] = overlapping(like)
            assert "overlap" in str(call_with_out(op, arguments, give(out)))
            return
    assert call_with_out(op, arguments, give(out)) is None
    if op != "endpoint_loss":  # its out is the gradient
        assert all(torch.equal(got, want) for got, want in zip(out, wanted, strict=True))


def call_with_out(op, arguments, out):
    """The error, or None; arguments that are not `out` keep their values either way."""
    before = kept(arguments, changed=out if isinstance(out, tuple) else (out,))
    error = None
    try:
        getattr(ops, op)(**arguments, out=out)
    except ValueError as refused:
        error = refused
        assert_names(refused, op, NAMES[op])
    assert_kept(before)
    return error


def one_case_of_arrays(data, op):
    """NumPy arrays of any stride, read-only ones and another byte order: the bits of the same tensors, or an error."""
    arguments = {**data.draw(right_arguments(op)), **({"dtype": torch.float32} if op == "kac_noise" else {})}
    arrays, foreign = {}, False
    for name, value in arguments.items():
        arrays[name] = value
        if not isinstance(value, torch.Tensor) or value.dtype == torch.bfloat16 or name == "seed":
            continue
        array = arrays[name] = value.resolve_neg().numpy()
        kind = data.draw(some.sampled_from(["same", "backwards", "read-only", "byte order"]))
        if kind == "backwards":
            arrays[name] = array[::-1].copy()[::-1]
        elif kind == "read-only":
            arrays[name] = array.copy()
            arrays[name].flags.writeable = False
        elif kind == "byte order":
            arrays[name], foreign = array.astype(array.dtype.newbyteorder()), True
    if foreign:
        with pytest.raises(ValueError, match=f"^{op}: .* cannot be used as a tensor"):
            getattr(interop, op)(**arrays)
        return
    got, want = getattr(interop, op)(**arrays), getattr(ops, op)(**arguments)
    for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, want)), strict=True):
        np.testing.assert_array_equal(np.asarray(torch.as_tensor(a).float()), b.float().numpy())


@fuzz(300)
@given(data=some.data(), op=some.sampled_from(OPS))
def test_any_argument(data, op):
    one_case(data, op)


@fuzz(100)
@given(data=some.data(), op=some.sampled_from([op for op in OPS if op != "guided_velocity"]))
def test_any_out(data, op):
    one_case_of_out(data, op)


@fuzz(60)
@given(data=some.data(), op=some.sampled_from(OPS))
def test_any_array(data, op):
    one_case_of_arrays(data, op)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_any_argument_often(op):
    @fuzz(SLOW_CASES // len(OPS) + 1)
    @given(data=some.data())
    def often(data):
        one_case(data, op)

    often()


@pytest.mark.slow
def test_any_out_and_array_often():
    @fuzz(SLOW_CASES // 20)
    @given(data=some.data(), op=some.sampled_from([op for op in OPS if op != "guided_velocity"]))
    def often(data, op):
        one_case_of_out(data, op)
        one_case_of_arrays(data, op)

    often()
