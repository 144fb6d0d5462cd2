"""Recorded evaluations without a GPU: a recording is simulated by torch's tracer, which freezes what is no tensor and repeats
the operations on the same memory, as a CUDA graph does. The graphs themselves: tests/gpu/test_gpu.py."""

import warnings

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from distillkac import sample
from distillkac.flow.networks import NetworkConfig
from distillkac.runs.config import RunConfig
from distillkac.runs.recorded import SHAPES, Recorded, _Watch
from distillkac.runs.run import Run, build_network
from distillkac.runs.sampler import SamplerConfig
from distillkac.runs.sampling import Drawing, generate
from tests.toys import SHAPE, refused, run_config
from tests.waits import DEVICE

UNET = NetworkConfig(channels=(8, 16), head_dim=8, attention=(0,))
DIT = NetworkConfig("dit", channels=(16,), head_dim=8)


class Traced:
    """A recorder that counts."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, compute):
        self.recorded += 1
        again, answer = make_fx(compute)(), compute()

        def replay():
            self.replayed += 1
            answer.copy_(again())

        return replay, answer


def same(one: torch.Tensor, two: torch.Tensor) -> None:
    """To the rounding of torch's products, which may depend on where their inputs lie. Wrong times, classes, weights or noise
    change images by tenths."""
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def opened(config: RunConfig, tmp_path) -> Run:
    network, source = build_network(config).eval(), torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # the last layer begins with zeros
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=source)
    return Run(tmp_path, config, config.noise.build(), network, torch.device("cpu"))


def drawn(run: Run, sampler: SamplerConfig, record=None):
    """(images, energies, nfe) of three batches of four of changing classes and a last one of two."""
    drawing, first = Drawing(run, sampler, seed=5), 0
    if record is not None:
        drawing.velocity.network = Recorded(run.network, record)
    for labels in ((0, 1, 0, 1), (1, 1, 0, 0), (0, 0, 0, 1), (1, 0)):
        drawing.rows = len(labels)  # as on a GPU, where the last batch is not filled up
        yield drawing.block(torch.tensor(labels), first), drawing.energy, drawing.nfe
        first += len(labels)


@pytest.mark.parametrize(
    ("options", "shapes", "twice"),
    [
        ({"steps": 3}, 2, 2),
        ({"steps": 2, "integrator": "heun"}, 2, 2),
        ({"steps": 1}, 2, 1),
        ({"steps": 4, "w": 2.0, "interval": (0.2, 0.8), "max_speed": 2.0}, 3, 2),
        ({"steps": 3, "restart": 0.5}, 2, 2),
        ({"steps": 3, "gamma": 0.5}, 2, 2),
    ],
    ids=["ab2", "heun", "one step", "guided", "restart", "gamma"],
)
def test_every_batch_has_the_images_of_the_network_itself(tmp_path, options, shapes, twice):
    """shapes: of the network's inputs; twice: those that are seen again, which are recorded."""
    run, calls = opened(run_config(), tmp_path), []
    counting = run.network.register_forward_hook(lambda *_: calls.append(1))
    plain = list(drawn(run, SamplerConfig(**options)))
    counting.remove()
    traced = Traced()
    for (images, energy, nfe), (other, its_energy, its_nfe) in zip(
        plain, drawn(run, SamplerConfig(**options), traced), strict=True
    ):
        same(images, other)
        same(energy, its_energy)
        assert nfe == its_nfe
    assert not torch.equal(plain[0][0], plain[1][0])
    assert (traced.recorded, traced.replayed) == (twice, len(calls) - shapes)


@pytest.mark.parametrize("kind", ["guidance_embedding", "interval_embedding"])
def test_weights_and_ends_of_steps_are_inputs(tmp_path, kind):
    """Of other values in every call, after the recording too."""
    objective = {"objective": "average-velocity"} if kind == "interval_embedding" else {}
    network = NetworkConfig(channels=(8,), head_dim=8, **{kind: True})
    net = opened(run_config(network=network, **objective), tmp_path).network
    recorded, source = Recorded(net, Traced()), torch.Generator().manual_seed(1)
    assert getattr(recorded, kind)
    with torch.no_grad():
        for _ in range(4):
            x, t, s = torch.randn(3, *SHAPE, generator=source), *torch.rand(2, 3, generator=source)
            y = torch.randint(0, 3, (3,), generator=source)
            further = ((4 * s,), {}) if kind == "guidance_embedding" else ((), {"r": s * t})
            answer = recorded(x, t, y, *further[0], **further[1])
            kept = answer.clone()
            same(answer, net(x, t, y, *further[0], **further[1]))
            recorded(x + 1, t, y, *further[0], **further[1])
            assert torch.equal(answer, kept)  # memory of its own


@pytest.mark.parametrize("network", [UNET, DIT], ids=["unet", "dit"])
def test_our_networks_can_be_recorded(network):
    """Nothing of theirs lies on another device than the images."""
    net = build_network(run_config(network=network)).to(DEVICE).eval()
    with torch.no_grad(), _Watch(DEVICE) as watch:
        net(
            torch.zeros(4, *SHAPE, device=DEVICE),
            *torch.zeros(1, 4, device=DEVICE),
            torch.zeros(4, device=DEVICE).long(),
        )
    assert watch.found == ""


class Own(nn.Module):
    """A network that does something on its way."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x, t, y):
        return self.way(x) * t.view(-1, 1)


UNREPEATABLE = {
    "draws random numbers of torch's": lambda x: x + torch.randn_like(x),
    "asks for values on the way": lambda x: x if x.sum() > 0 else -x,
    "draws random numbers of torch's (": lambda x: nn.functional.dropout(x, 0.5),
}


@pytest.mark.parametrize("why", UNREPEATABLE)
def test_what_no_recording_repeats_is_evaluated_as_ever_and_said_once(why):
    traced, inputs = Traced(), (torch.ones(2, 3), torch.ones(2), torch.zeros(2).long())
    recorded = Recorded(Own(UNREPEATABLE[why]), traced)
    with torch.no_grad():
        with pytest.warns(
            UserWarning, match="Own cannot be recorded as a CUDA graph, and is evaluated without: it "
        ) as said:
            first = recorded(*inputs)
        assert why in str(said[0].message)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = recorded(*inputs)
    assert first.shape == again.shape == (2, 3)
    assert traced.recorded == 0


def test_tables_on_another_device_are_found():
    """Here that of meta, in place of a table in ordinary memory for a network on a GPU."""
    table = torch.ones(3, device="cpu")
    for way in (
        lambda x: x + table.to(x.device, non_blocking=True),
        lambda x: x.to("cpu", non_blocking=True).to(x.device),
    ):
        with torch.no_grad(), _Watch(DEVICE) as watch:
            try:
                way(torch.ones(2, 3, device=DEVICE))
            except NotImplementedError:  # meta has no values to copy from
                continue
        assert watch.found == "uses tensors of another device (_to_copy)"
    with _Watch(DEVICE) as watch:
        torch.ones(2, 3, device=DEVICE) * torch.tensor(2.0)
    assert watch.found == ""  # a number


def test_attention_without_dropout_draws_nothing():
    q = torch.ones(1, 1, 4, 8)
    for dropout, found in ((0.0, False), (0.5, True)):
        with torch.no_grad(), _Watch(q.device) as watch:
            nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=dropout)
        assert bool(watch.found) is found


def test_a_recording_that_fails_is_said_and_loses_nothing(tmp_path):
    def failing(compute):
        compute()
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    run = opened(run_config(), tmp_path)
    plain = list(drawn(run, SamplerConfig(steps=2)))
    with pytest.warns(UserWarning, match="and is evaluated without: CUDA out of memory.$") as said:
        recorded = list(drawn(run, SamplerConfig(steps=2), failing))
    assert len(said) == 1
    for one, two in zip(plain, recorded, strict=True):
        same(one[0], two[0])


def test_few_shapes_are_held(tmp_path):
    traced, network = Traced(), Own(lambda x: x)
    recorded = Recorded(network, traced)
    with torch.no_grad():
        for rows in (*range(1, SHAPES + 3), *range(1, SHAPES + 3)):
            inputs = torch.full((rows, 3), 2.0), torch.full((rows,), 0.5), torch.zeros(rows).long()
            assert torch.equal(recorded(*inputs), network(*inputs))
    assert traced.recorded == SHAPES
    x = torch.ones(1, 3, requires_grad=True)
    recorded(x, torch.ones(1), torch.zeros(1).long()).sum().backward()  # gradients need the network itself
    assert torch.equal(x.grad, torch.ones(1, 3))


def test_a_cpu_has_no_graphs(tmp_path, toy_run, capsys):
    with pytest.raises(ValueError, match="graph: CUDA graphs are of GPUs, and this draws on cpu: omit it"):
        generate(opened(run_config(), tmp_path), torch.tensor([0]), SamplerConfig(1), graph=True)
    said = refused(sample, [toy_run, "--graph", "--out", tmp_path / "x.png"], capsys)
    assert "CUDA graphs are of GPUs" in said
    assert not (tmp_path / "x.png").exists()
