"""The CUDA kernels on a real GPU: the CPU's values, the current stream, graphs, gradients. Skipped where there is
none."""

import pytest
import torch

from distillkac import ops
from distillkac._kernels import native
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate, time_grid
from distillkac.ops import interop, reference
from distillkac.runs.device import fast_products, placed
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.recorded import Recorded
from distillkac.runs.run import Run, build_network
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import generate
from distillkac.scheduler import KacScheduler
from distillkac.training import loop, optimizer
from distillkac.training.batches import Batch
from distillkac.training.objective import FlowMatching
from tests.toys import ToyData, optim, run_config, trainer
from tests.training.test_muon import SHAPES, check_formula

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
    pytest.mark.skipif(not native.build_info()["cuda"], reason="built without CUDA kernels"),
]
A, C = 9.0, 3.0
PROCESSES = ("telegraph", "planar", "quad")
SIZES = [(2,), (34,), (3, 32, 32), (100_004,)]
EACH = [(process, size) for process in PROCESSES for size in SIZES if process != "quad" or size[-1] % 4 == 0]


def times(rows, device="cuda"):
    t = torch.rand(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    t[: min(2, rows)] = torch.tensor([1e-5, 1.0], dtype=torch.float64)[: min(2, rows)]
    return t.to(device)


def ulps(a, b):
    """Distance in units of the last place, elementwise, of two float32 tensors."""

    def ordered(x):
        bits = x.cpu().view(torch.int32).long()
        return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    return (ordered(a) - ordered(b)).abs()


@pytest.mark.parametrize(("process", "size"), EACH)
@pytest.mark.parametrize("rows", [1, 7])
def test_noise_and_pair_agree_with_the_cpu_to_2_ulp(process, size, rows):
    t = times(rows)
    k, expected = ops.kac_noise(t, size, process, A, C, 5, 3), ops.kac_noise(t.cpu(), size, process, A, C, 5, 3)
    assert ulps(k, expected).max() <= 2
    x0 = torch.randn(rows, *size, generator=torch.Generator().manual_seed(1))
    got = ops.kac_pair(x0.cuda(), t, process, A, C, "cosine", "quadratic", 5, 3)
    exact = ops.kac_pair(x0, t.cpu(), process, A, C, "cosine", "quadratic", 5, 3)
    for g, e in zip(got, exact, strict=True):
        torch.testing.assert_close(g.cpu(), e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_ops_agree_with_the_cpu(process, dtype):
    x, cond, uncond, prev = (
        torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(4)
    )
    t = times(5)
    k = ops.kac_noise(t, (3, 16, 16), process, A, C, 5)
    torch.testing.assert_close(
        ops.kac_velocity(k, t, process, A, C).cpu(),
        ops.kac_velocity(k.cpu(), t.cpu(), process, A, C),
        rtol=2e-6,
        atol=2e-6,
    )
    w = torch.rand(5, generator=torch.Generator().manual_seed(9))
    for arguments in ((w, 0.1, 0.2), (2.0, w, 0.2)):
        options = {"max_speed": 0.7, "process": process}
        got = ops.guided_step(
            x.cuda(),
            cond.cuda(),
            uncond.cuda(),
            prev.cuda(),
            *(v.cuda() if isinstance(v, torch.Tensor) else v for v in arguments),
            **options,
        )
        exact = ops.guided_step(x, cond, uncond, prev, *arguments, **options)
        for g, e in zip(got, exact, strict=True):
            torch.testing.assert_close(g.cpu(), e, rtol=2e-6, atol=2e-6)
    delta = w + 0.1
    got = ops.endpoint_loss(x.cuda(), cond.cuda(), prev.cuda(), delta.cuda())
    assert torch.equal(got, ops.endpoint_loss(x.cuda(), cond.cuda(), prev.cuda(), delta.cuda()))
    torch.testing.assert_close(got.cpu(), ops.endpoint_loss(x, cond, prev, delta), rtol=1e-5, atol=0)


def test_gradients():
    x, u, end = (torch.randn(4, 300, device="cuda", requires_grad=True) for _ in range(3))
    delta = torch.rand(4, device="cuda") + 0.1
    grads = torch.autograd.grad(ops.endpoint_loss(x, u, end, delta), (x, u, end))
    exact = torch.autograd.grad(reference.endpoint_loss(x, u, end, delta), (x, u, end))
    for g, e in zip(grads, exact, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-4, atol=1e-7)


def test_graph_replay_draws_fresh_noise():
    t, seed = times(4), torch.tensor(1, device="cuda")
    out = torch.empty(4, 3, 16, 16, device="cuda")
    ops.kac_noise(t, (3, 16, 16), "telegraph", A, C, seed, out=out)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.kac_noise(t, (3, 16, 16), "telegraph", A, C, seed, out=out)
        seed += 1
    seed.fill_(10)
    for expected_seed in (10, 11, 12):
        graph.replay()
        assert torch.equal(out, ops.kac_noise(t, (3, 16, 16), "telegraph", A, C, expected_seed))


def test_runs_on_the_current_stream():
    t = times(64)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = t * 0 + 0.5
        k = ops.kac_noise(late, (3, 32, 32), "planar", A, C, 1)
    stream.synchronize()
    assert torch.equal(k, ops.kac_noise(torch.full_like(t, 0.5), (3, 32, 32), "planar", A, C, 1))


def test_rows_out_of_range_are_nan():
    t = torch.tensor([-1.0, float("nan"), 0.5], device="cuda")
    noise = ops.kac_noise(t, (64,), "telegraph", A, C, 1)
    assert noise[:2].isnan().all()
    assert noise[2].isfinite().all()
    noisy = KacScheduler().add_noise(torch.ones(3, 64, device="cuda"), noise.nan_to_num(), t)
    assert noisy.isnan().all(1).tolist() == [True, True, False]


@pytest.mark.parametrize("shape", SHAPES)
def test_muon_follows_its_formula(shape):
    check_formula(shape, "cuda")


def test_the_state_of_muon_comes_back_from_a_checkpoint():
    """From the CPU, where checkpoints are read; AdamW's numbers of steps too must lie where its kernel wants them."""
    networks = [build_network(run_config()).cuda() for _ in range(2)]
    one, two = (optimizer.build(network, OptimConfig(optimizer="muon", lr=0.01)) for network in networks)
    for updates in ((one,), (one, two)):
        for update in updates:
            for number, parameter in enumerate(p for group in update.param_groups for p in group["params"]):
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).cuda()
            update.step()
        if len(updates) == 1:
            state = one.state_dict()
            moments = {n: {k: v.cpu() for k, v in values.items()} for n, values in state["state"].items()}
            two.load_state_dict(state | {"state": moments})
            networks[1].load_state_dict(networks[0].state_dict())
    for first, second in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(first, second)
    assert {values["step"].device.type for values in two.state.values() if "step" in values} == {"cuda"}


def test_a_training_by_recorded_passes_is_the_one_without(tmp_path, monkeypatch):
    from torch._inductor.cudagraph_trees import get_container

    found = []
    for recorded in (True, False):
        torch.compiler.reset()
        monkeypatch.setattr(loop, "one_call", lambda objective, recorded=recorded: recorded)
        monkeypatch.setattr(optimizer, "RECORDED", 2**24 if recorded else 0)
        config = run_config(optim=optim(compile=True, optimizer="muon", ema=0.5))
        made = trainer(tmp_path / str(recorded), config, cpu=False)
        start = torch.cat([weight.flatten().clone() for weight in made.ema.weights.values()])
        made.fit()
        assert made.accelerator.device.type == "cuda"
        (call,) = (values["_compiled_call_impl"] for part, values in made.prepared if part is made.raw)
        assert call.compiled is not None
        assert bool(made.optimizer.optimizer._recordings) is recorded
        assert (get_container(start.device.index or 0).tree_manager is not None) is recorded
        found.append(torch.cat([weight.flatten() for weight in made.ema.weights.values()]) - start)
    # Products of TF32 have ten bits; of a larger network it was 0.003 of the weights after 120 steps in bfloat16.
    assert (found[0] - found[1]).norm() < 0.1 * found[1].norm()


def test_cupy_arrays_pass_without_a_copy_and_its_bessel_functions_agree():
    """v = a k / (a t + z I0(z) / I1(z)) of the telegraph process, in float64 on CuPy's own Bessel functions."""
    cupy = pytest.importorskip("cupy")
    special = pytest.importorskip("cupyx.scipy.special")
    t = cupy.asarray(times(7).cpu().numpy())
    k = interop.kac_noise(t, (3, 32, 32), "telegraph", a=A, c=C, seed=5)
    assert isinstance(k, cupy.ndarray)
    assert torch.equal(torch.from_dlpack(k), ops.kac_noise(times(7), (3, 32, 32), "telegraph", A, C, 5))
    out = cupy.empty_like(k)
    assert interop.kac_noise(t, (3, 32, 32), "telegraph", a=A, c=C, seed=6, out=out) is out
    v = interop.kac_velocity(k, t, "telegraph", a=A, c=C)
    wide, radius = k.astype(cupy.float64), (C * t)[:, None, None, None]
    z = A / C * cupy.sqrt(cupy.maximum((radius - abs(wide)) * (radius + abs(wide)), 1e-12))
    expected = A * wide / (A * t[:, None, None, None] + z * special.i0e(z) / special.i1e(z))
    inside = abs(wide) < (1 - 1e-5) * radius  # nearer to the light cone, k as a float32 says too little
    error = abs(v.astype(cupy.float64) - expected)[inside]
    assert float(error.max()) < 2e-5 * C


def test_our_networks_answer_with_channels_last_and_tf32_as_on_a_cpu():
    """To the 10 bits that TF32 keeps of a factor, over a few layers."""
    networks = [build_network(run_config()).eval() for _ in range(2)]
    for network in networks:
        source = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=source)
    on_gpu = placed(networks[1], torch.device("cuda"))
    assert any(p.dim() == 4 and not p.is_contiguous() for p in on_gpu.parameters())
    x, t, y = torch.randn(4, 1, 4, 4), torch.rand(4), torch.tensor([0, 1, 2, 0])
    with torch.no_grad(), fast_products(torch.device("cuda")):
        assert torch.backends.cuda.matmul.allow_tf32
        got = on_gpu(x.cuda(), t.cuda(), y.cuda())
    assert not torch.backends.cuda.matmul.allow_tf32
    torch.testing.assert_close(got.cpu(), networks[0](x, t, y).detach(), rtol=2e-2, atol=2e-2)


def test_a_step_and_sampling_do_not_wait_for_the_gpu():
    """As tests/training/test_no_waits.py says of every method without one."""
    config, images = run_config(), ToyData()
    network = placed(build_network(config), torch.device("cuda")).train()
    rows = images.x[:8].cuda(), images.y[:8].cuda()
    update = optimizer.build(network, OptimConfig(optimizer="muon", lr=0.01))
    learns = FlowMatching(config.noise.build(), network.null_class, 0.1, 0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")  # torch itself raises where the program waits
    try:
        learns(network, Batch(*rows, 3, 0, 8)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        update.step()
        with torch.no_grad():
            x = config.noise.build().prior(8, config.shape, 1, 0, torch.device("cuda"))
            integrate(GuidedVelocity(network, 1.0), x, rows[1], time_grid(4), "ab2")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "options", [{"steps": 4}, {"steps": 4, "w": 2.0, "interval": (0.2, 0.8)}, {"steps": 3, "restart": 1.0}]
)
def test_recorded_evaluations_have_the_images_of_the_network_itself(tmp_path, options):
    """Three batches and a smaller last one, with noise and classes of their own, to the rounding of kernels that torch may
    choose otherwise in a recording."""
    config, device = run_config(), torch.device("cuda")
    network, source = build_network(config), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=source)
    run = Run(tmp_path, config, config.noise.build(), placed(network, device).eval(), device)
    labels = torch.arange(14) // 3 % 2
    plain, recorded = (
        generate(run, labels, SamplerConfig(**options), 5, batch_size=4, graph=graph).images for graph in (False, True)
    )
    torch.testing.assert_close(recorded, plain, rtol=2e-2, atol=2e-2)
    assert not torch.equal(plain[:4], plain[4:8])


def test_a_network_that_waits_is_evaluated_without_a_recording():
    def network(x, t, y):
        return x if float(x.sum()) > 0 else -x

    recorded, inputs = Recorded(network), (torch.ones(2, 3, device="cuda"), *torch.ones(2, 2, device="cuda"))
    with torch.no_grad(), pytest.warns(UserWarning, match="asks for values"):
        assert torch.equal(recorded(*inputs), inputs[0])
    failing = Recorded(network)
    failing._watched = lambda inputs, named: network(*inputs)  # as if nobody had watched: the recording itself fails
    with torch.no_grad():
        assert torch.equal(failing(*inputs), inputs[0])
        with pytest.warns(UserWarning, match="is evaluated without"):
            assert torch.equal(failing(*inputs), inputs[0])
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.ones(2, device="cuda").sum().item()
