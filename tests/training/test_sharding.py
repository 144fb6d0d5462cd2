"""What is sharded, and how much of it a process keeps; that training goes on as before is in test_distributed.py."""

import copy

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from distillkac import train
from distillkac.flow.networks import NetworkConfig
from distillkac.runs.run import build_network
from distillkac.training.sharding import blocks, local, shard
from tests.toys import SHAPE, TINY, run_config


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (TINY, ["DownBlock2D", "UpBlock2D", "UNetMidBlock2D"]),
        (
            NetworkConfig(backbone="dit", channels=(16,), head_dim=8, layers=2, patch=2),
            ["CombinedTimestepLabelEmbeddings", *["BasicTransformerBlock"] * 2],
        ),
    ],
)
def test_blocks_are_those_of_the_backbone(network, expected):
    assert [type(block).__name__ for block in blocks(build_network(run_config(network=network)))] == expected


def test_a_process_keeps_its_share():
    network = build_network(run_config())
    total = sum(p.numel() for p in network.parameters())
    torch.distributed.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    try:
        shard(network, 4, torch.device("cpu"))
        kept = sum(local(p).numel() for p in network.parameters())
    finally:
        torch.distributed.destroy_process_group()
    assert kept < 0.3 * total


@pytest.mark.parametrize("guidance_embedding", [False, True])
def test_a_sharded_transformer_is_the_same_network(guidance_embedding):
    """Its first block's embedding is asked again behind the blocks, when that block's weights are spread again."""
    config = NetworkConfig("dit", channels=(16,), head_dim=8, layers=2, guidance_embedding=guidance_embedding)
    network = build_network(run_config(network=config))
    for number, parameter in enumerate(network.parameters()):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    sharded, t = copy.deepcopy(network), torch.tensor([0.1, 0.5, 0.8])
    inputs = (
        torch.linspace(-1, 1, 48).view(3, *SHAPE),
        t,
        torch.tensor([0, 1, 2]),
        *([t] if guidance_embedding else []),
    )
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        shard(sharded, 1, torch.device("cpu"))
        for one in (network, sharded):
            one(*inputs).square().sum().backward()
        for mine, theirs in zip(network.parameters(), sharded.parameters(), strict=True):
            torch.testing.assert_close(theirs.grad.full_tensor(), mine.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_fsdp_of_accelerate_is_refused_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert train.main(["--run", str(tmp_path / "run"), "--steps", "1"]) == 1
    assert "--optim.shard" in capsys.readouterr().err
