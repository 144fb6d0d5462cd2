"""Every CUDA kernel, run on the CPU by the emulation in cuda_on_cpu/: the same bits as the CPU kernels (of the endpoint loss, a
sum in another order, the values of the reference), no access outside its arrays (AddressSanitizer), and planted bugs that must
be found."""

import math
import os
import subprocess
import sys

import pytest
import torch

from distillkac import ops
from distillkac.ops import reference
from tests.kernels.cuda_on_cpu.build import build, translate
from tests.kernels.cuda_on_cpu.emulated import Emulated
from tests.places import ROOT

SANITIZED = "DISTILLKAC_EMULATED_SANITIZED"  # set in the AddressSanitizer run: the library to load
A, C = 9.0, 3.0
T = torch.tensor([1e-5, 0.002, 0.3, 1.0], dtype=torch.float64)  # lambda below and above 1/64
WIDTHS = (1, 33, 64, 2047, 4100)  # odd, one block, across the units of 2048 elements
GROUPS = {"telegraph": 1, "planar": 2, "quad": 4}
PROCESSES = tuple(GROUPS)


@pytest.fixture(scope="session")
def cuda(tmp_path_factory):
    library = os.environ.get(SANITIZED) or build(tmp_path_factory.mktemp("emulated"))
    return Emulated(library)


def whole(width, process):
    """The width, made up to whole groups."""
    return width + -width % GROUPS[process]


def draws(width, count=1, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(len(T), width, generator=generator).to(dtype) for _ in range(count)]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_noise_has_the_bits_of_the_cpu_kernel(cuda, process, width, dtype):
    size = (whole(width, process),)
    for seed, offset in ((3, 0), (-5, 2**40 + 7)):
        got = cuda.kac_noise(T, size, process, A, C, seed, offset, dtype)
        assert torch.equal(got, ops.kac_noise(T, size, process, A, C, seed, offset, dtype))


def test_noise_draws_the_rare_words_too(cuda):
    """About 1.5e-5 of the words take the double-precision path: 4e6 draws hold some 60 of them."""
    t = torch.full((4,), 1.0, dtype=torch.float64)
    got, expected = (f(t, (300_000,), "telegraph", A, C, 11) for f in (cuda.kac_noise, ops.kac_noise))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("process", PROCESSES)
def test_large_arrays_have_longer_units(cuda, process):
    """2048 units or more of 4096 elements: a thread has a second round, in which it finds rare words of its own. Where hardly
    any particle turned every word that did is rare, one in a thousand here."""
    t = torch.full((2048,), 1e-4, dtype=torch.float64)
    t[::64] = 0.3
    got, expected = (f(t, (2116,), process, A, C, 11) for f in (cuda.kac_noise, ops.kac_noise))
    assert torch.equal(got, expected)
    if process == "telegraph":
        turned = expected[t < 0.1, 2048:].abs() < C * 1e-4 * (1 - 1e-6)
        assert turned.any()


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("second", [False, True])
def test_pairs_of_large_arrays_read_what_is_theirs(cuda, process, second):
    """In units of two rounds a thread's places for x0 are used again, at last for the groups of rare words."""
    t = torch.full((2048,), 1e-4, dtype=torch.float64)
    t[::64] = 0.3
    x0 = torch.randn(len(t), 2116, generator=torch.Generator().manual_seed(2))
    arguments = (x0, t, process, A, C, "linear", "linear", 11)
    to = {"t_to": t.flip(0)} if second else {}
    for got, expected in zip(cuda.kac_pair(*arguments, **to), ops.kac_pair(*arguments, **to), strict=True):
        assert torch.equal(got, expected)


def test_more_units_than_blocks(cuda):
    """8,192 blocks at most; the rest by grid stride."""
    t = torch.rand(8300, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(cuda.kac_noise(t, (2,), "planar", A, C, 1), ops.kac_noise(t, (2,), "planar", A, C, 1))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("width", WIDTHS)
def test_velocity(cuda, process, width):
    k = ops.kac_noise(T, (whole(width, process),), process, A, C, 5)
    got = cuda.kac_velocity(k, T, process, A, C)
    assert torch.equal(got, ops.kac_velocity(k, T, process, A, C))
    inside = k[2:].abs() < (C * T[2:, None]).float()  # at atoms float64 sees |k| on either side of c t
    if process == "quad":  # so do two float64 norms of what lies a millionth inside the sphere
        size = k[2:].double().unflatten(-1, (-1, 4)).norm(dim=-1).repeat_interleave(4, -1) / (C * T[2:, None])
        inside = (size - 1 + 1e-6).abs() > 3e-7
    expected = reference.kac_velocity(k[2:].double(), T[2:], process, A, C)
    torch.testing.assert_close(
        got[2:][inside].double(), expected[inside], rtol=5e-7, atol=3e-4 if process == "planar" else 0
    )


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("f", "g"), [("linear", "linear"), ("cosine", "quadratic"), ("exp", "linear")])
def test_pair(cuda, process, width, f, g):
    (x0,) = draws(whole(width, process))
    got = cuda.kac_pair(x0, T, process, A, C, f, g, seed=7, offset=3, kappa=2.0)
    expected = ops.kac_pair(x0, T, process, A, C, f, g, seed=7, offset=3, kappa=2.0)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pair_at_two_times(cuda, process, width, dtype):
    (x0,) = draws(whole(width, process), dtype=dtype)
    for f, g in (("linear", "linear"), ("cosine", "quadratic")):
        options = (process, A, C, f, g, 7, 2**40 + 3, 2.0)
        for t_to in (T.flip(0), T * 0, T):
            got = cuda.kac_pair(x0, T, *options, t_to=t_to)
            expected = (*ops.kac_pair(x0, T, *options), ops.kac_pair(x0, t_to, *options)[0])
            assert all(map(torch.equal, got, expected))


def test_pair_at_two_times_draws_the_rare_words_of_both(cuda):
    x0, t, t_to = torch.zeros(4, 1 << 20), torch.full((4,), 1.0).double(), torch.full((4,), 0.1).double()
    got = cuda.kac_pair(x0, t, "telegraph", A, C, seed=4, t_to=t_to)
    expected = ops.kac_pair(x0, t, "telegraph", A, C, seed=4, t_to=t_to)
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("process", PROCESSES)
def test_a_time_of_minus_zero_is_zero(cuda, process):
    zero, (x0,) = T * 0, draws(72)
    for result in (
        lambda t: cuda.kac_noise(t, (72,), process, A, C, 5),
        lambda t: cuda.kac_velocity(x0 * 0, t, process, A, C),
        lambda t: torch.stack(cuda.kac_pair(x0, t, process, A, C, seed=7, t_to=t)),
    ):
        assert torch.equal(result(-zero), result(zero))


def test_rows_out_of_range_are_nan(cuda):
    t = torch.tensor([-1.0, float("nan"), 0.5], dtype=torch.float64)
    x_t, u, x_to = cuda.kac_pair(torch.zeros(3, 72), t, "telegraph", A, C, t_to=t.flip(0))
    assert x_t[:2].isnan().all()
    assert u[:2].isnan().all()
    assert x_to[1:].isnan().all()
    assert x_t[2].isfinite().all()
    assert x_to[0].isfinite().all()
    for process in PROCESSES:
        noise = cuda.kac_noise(t, (72,), process, A, C, 1)
        assert noise[:2].isnan().all()
        assert noise[2].isfinite().all()
        k = torch.full((1, 4), 5.0)  # c t = 1.5
        assert cuda.kac_velocity(k, t[2:], process, A, C).isnan().all()
        together = {"telegraph": 1, "planar": 2, "quad": 4}[process]
        for place in range(4):
            k = torch.full((1, 8), 0.1)
            k[0, place] = math.nan
            ill = cuda.kac_velocity(k, t[2:], process, A, C)[0].isnan()
            assert ill.nonzero().flatten().tolist() == [i for i in range(8) if i // together == place // together]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("max_speed", [None, 0.7])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_guidance_and_step(cuda, process, max_speed, width, dtype):
    x, cond, uncond, prev = draws(whole(width, process), 4, dtype=dtype)
    w, h, h_prev = (
        torch.rand(len(T), dtype=torch.float64, generator=torch.Generator().manual_seed(i)) + 0.1 for i in range(3)
    )
    options = {"max_speed": max_speed, "process": process}
    tolerance = {"rtol": 2e-6, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.02}
    got = cuda.guided_velocity(cond, uncond, w, **options)
    assert torch.equal(got, ops.guided_velocity(cond, uncond, w, **options))
    torch.testing.assert_close(got.double(), reference.guided_velocity(cond, uncond, w, **options), **tolerance)
    for other in (uncond, None):
        for before in (prev, None):
            got = cuda.guided_step(x, cond, other, before, w, h, h_prev, **options)
            expected = ops.guided_step(x, cond, other, before, w, h, h_prev, **options)
            exact = reference.guided_step(x, cond, other, before, w, h, h_prev, **options)
            for g, e, r in zip(got, expected, exact, strict=True):
                assert torch.equal(g, e)
                torch.testing.assert_close(g.double(), r, **tolerance)
    in_place = cuda.guided_step(x.clone(), cond, uncond, prev.clone(), w, h, h_prev, **options)
    x, prev = x.clone(), prev.clone()
    cuda.guided_step(x, cond, uncond, prev, w, h, h_prev, **options, out=(x, prev))
    assert torch.equal(x, in_place[0])
    assert torch.equal(prev, in_place[1])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_endpoint_loss(cuda, width, dtype):
    x, u, x_end = draws(width, 3, dtype=dtype)
    delta = torch.tensor([0.05, 0.2, 0.5, 1.0], dtype=torch.float64)
    weight = torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    loss, grad_u = cuda.endpoint_loss(x, u, x_end, delta, weight)
    again, _ = cuda.endpoint_loss(x, u, x_end, delta, weight)
    assert torch.equal(loss, again)
    exact_u = u.double().requires_grad_()
    exact = reference.endpoint_loss(x, exact_u, x_end, delta, weight)
    exact.backward()
    torch.testing.assert_close(loss.double(), exact.detach(), rtol=2e-6, atol=0)
    tolerance = {"rtol": 2e-6, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 0.01, "atol": 1e-6}
    torch.testing.assert_close(grad_u.double(), exact_u.grad, **tolerance)


def test_launches(cuda):
    """One kernel for an op, two for the loss: what docs/speed.md says of a training step and of a sampler's."""
    x, u, x_end = draws(64, 3)
    ones = torch.ones(len(T), dtype=torch.float64)
    for launches, call in (
        (1, lambda: cuda.kac_noise(T, (64,), "telegraph", A, C, 1)),
        (1, lambda: cuda.kac_velocity(torch.zeros(len(T), 64), T, "telegraph", A, C)),
        (1, lambda: cuda.kac_pair(x, T, "telegraph", A, C, "linear", "linear", seed=1, offset=0, kappa=1.0)),
        (1, lambda: cuda.kac_pair(x, T, "telegraph", A, C, t_to=T.flip(0))),
        (1, lambda: cuda.guided_velocity(x, u, ones, max_speed=None, process="telegraph")),
        (1, lambda: cuda.guided_step(x, u, x_end, None, ones, ones, ones, max_speed=None, process="telegraph")),
        (2, lambda: cuda.endpoint_loss(x, u, x_end, ones, ones)),
    ):
        before = cuda.library.launches()
        call()
        assert cuda.library.launches() - before == launches


def test_the_launch_syntax_is_translated():
    source = "kernel<T, true><<<n, 32, 0, s>>>(a, b);"
    assert translate(source) == "emulation::launch(n, 32, 0, s, [=] { kernel<T, true>(a, b); });"


def run_sanitized(library, *selection):
    sanitizers = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    environment = os.environ | {SANITIZED: str(library), "LD_PRELOAD": ":".join(sanitizers), "ASAN_OPTIONS": options}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", __file__, "-k", " or ".join(selection)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED in os.environ, reason="this is the sanitized run")
def test_no_access_outside_the_arrays(tmp_path):
    """The tests above under AddressSanitizer and UndefinedBehaviorSanitizer; a store without its bounds check is found."""
    clean = run_sanitized(build(tmp_path / "clean", sanitize=True), "noise_has", "velocity", "pair", "step", "loss")
    assert clean.returncode == 0, clean.stdout[-3000:] + clean.stderr[-3000:]
    assert "passed" in clean.stdout

    def unchecked_store(name, text):
        return text.replace("if (i < count) p[i] =", "p[i] =") if name == "cuda_common.cuh" else text

    planted = run_sanitized(build(tmp_path / "planted", sanitize=True, mutate=unchecked_store), "test_pair")
    assert planted.returncode != 0
    assert "heap-buffer-overflow" in planted.stderr + planted.stdout
