"""Presets are valid and of the size they claim; the cost of a run is counted right; DiT and U-Net train by command."""

import pytest
import torch

from distillkac import train
from distillkac.flow.networks import NetworkConfig, VelocityNet
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.presets import PRESETS
from distillkac.training import cost as training_cost
from distillkac.training.cost import cost
from tests.toys import TINY_OPTIONS


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [("digits", (1, 8, 8), 0.65), ("cifar10", (3, 32, 32), 305), ("celeba64", (3, 64, 64), 120)],
)
def test_sizes(name, shape, millions):
    with torch.device("meta"):
        network = VelocityNet(PRESETS[name].network, shape, 10)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.3)


def test_the_papers_cifar_settings():
    config = PRESETS["cifar10"]
    assert (config.noise.process, config.noise.a, config.noise.c) == ("telegraph", 25.0, 2.0)
    assert config.optim.batch_size == 128
    network = config.network
    assert (network.channels, network.layers, network.scale_shift) == ((256, 512, 512, 768), 3, True)
    assert [32 >> level for level in network.attention] == [16, 8, 4]


def test_cost_counts_what_a_linear_layer_does():
    """One 3 x 3 convolution in, one out and two blocks: compared with a count by hand of the first and the last."""
    config = RunConfig(network=NetworkConfig(channels=(8,), head_dim=8, middle_attention=False), shape=(1, 8, 8),
                       class_names=("a",), steps=10)  # fmt: skip
    figures = cost(config, torch.device("cpu"))
    network = VelocityNet(config.network, config.shape, 1)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    by_hand = sum(2 * 9 * m.in_channels * m.out_channels * 64 for m in convolutions)
    assert by_hand < figures["flops_per_image"] < 1.3 * by_hand
    assert figures["parameters"] == sum(p.numel() for p in network.parameters())
    assert figures["weight_bytes"] == 20 * figures["parameters"]
    # Every convolution keeps its input: float32, 128 images a batch.
    kept = sum(4 * 128 * 64 * m.in_channels for m in convolutions)
    assert kept < figures["activation_bytes"] < 10 * kept
    assert figures["hours"] == pytest.approx(figures["seconds_per_step"] * 10 / 3600)


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    assert train.main(["--run", str(tmp_path / "x"), "--dry-run", *TINY_OPTIONS]) == 0
    text = capsys.readouterr().out
    for word in ("telegraph (a 25, c 2)", "1x8x8, 10 classes", "M parameters", "hours in all"):
        assert word in text
    assert not (tmp_path / "x").exists()


def test_a_preset_can_be_planned_before_its_images_are_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_cost, "cost", lambda config, device: seen.append(config) or {})
    monkeypatch.setattr(training_cost, "described", lambda *a: "")
    seen = []
    for name, shape, classes in (
        ("cifar10", (3, 32, 32), 10),
        ("celeba64", (3, 64, 64), 1),
        ("lsun256", (4, 32, 32), 1),
    ):
        assert train.main(["--preset", name, "--dry-run", "--optim.batch-size", "64"]) == 0
        assert (seen[-1].shape, len(seen[-1].class_names), seen[-1].optim.batch_size) == (shape, classes, 64)
        assert "nothing at" in capsys.readouterr().out
    for wrong in (["--preset", "cifar10"], ["--preset", "cifar10", "--data.path", "elsewhere", "--dry-run"]):
        assert train.main([*wrong, "--run", "x"]) == 1
        assert "where there is nothing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_preset_is_the_start_for_the_other_options(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training_cost, "cost", lambda config, device: seen.append(config) or {})
    monkeypatch.setattr(training_cost, "described", lambda *a: "")
    seen = []
    assert train.main(["--preset", "patches", "--a", "9", "--dry-run"]) == 0
    assert (seen[0].data.builtin, seen[0].noise.a, seen[0].network) == ("patches", 9.0, PRESETS["patches"].network)
    with pytest.raises(SystemExit):
        train.main(["--preset", "cifar", "--dry-run"])
    assert "cifar10" in capsys.readouterr().err


def test_a_transformer_trains(tmp_path):
    dit = ["--network.backbone", "dit", "--network.channels", "32", "--network.layers", "2", "--network.head-dim", "16"]
    assert train.main(["--run", str(tmp_path), "--steps", "3", "--optim.batch-size", "16", *dit]) == 0
    assert load_config(tmp_path).network.backbone == "dit"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (NetworkConfig(backbone="dit"), "one number as network.channels"),
        (NetworkConfig(backbone="dit", channels=(32,), patch=3), "network.patch 3 divides"),
        (NetworkConfig(backbone="dit", channels=(32,), guidance_embedding=True), "does not take w"),
    ],
)
def test_impossible_transformers_are_explained(config, message):
    with pytest.raises(ValueError, match=message):
        VelocityNet(config, (1, 8, 8), 10)
