"""Presets are valid and of the size they claim; the cost of a run is counted right; DiT and U-Net train by command."""

import pytest
import torch

from distillkac import distill, sample, train
from distillkac.data import sources
from distillkac.flow.networks import NetworkConfig, VelocityNet
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.optim_config import OptimConfig
from distillkac.runs.presets import PRESETS
from distillkac.training import cost as training_cost
from distillkac.training.cost import cost
from tests.toys import TINY_OPTIONS, refused


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [
        ("digits", (1, 8, 8), 0.65),
        ("cifar10", (3, 32, 32), 305),
        ("celeba64", (3, 64, 64), 120),
        ("fashion", (1, 28, 28), 1.47),
        ("patches", (3, 32, 32), 1.48),
    ],
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
    assert network.dropout == 0
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


def test_cost_of_patches_is_that_of_the_smaller_image():
    """2 x 2 pixels as one position: a quarter of the work behind the first convolution and before the last."""
    plain, patched = (
        cost(
            RunConfig(
                network=NetworkConfig(channels=(32,), head_dim=8, patch=patch),
                shape=(1, 12, 20),
                class_names=("a",),
                steps=1,
                optim=OptimConfig(batch_size=1),
            ),
            torch.device("cpu"),
        )
        for patch in (None, 2)
    )
    assert 0.2 < patched["flops_per_image"] / plain["flops_per_image"] < 0.3
    assert 0.2 < patched["activation_bytes"] / plain["activation_bytes"] < 0.35
    assert patched["parameters"] - plain["parameters"] == 9 * 32 * 3 * 2 + 3


def test_attention_is_counted_wherever_it_is_computed():
    """Two products of T x T x channels, T positions: what a CPU does in their place torch's counter does not know."""
    q = torch.zeros(1, 2, 16, 8)
    found = training_cost.flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert found == 2 * (2 * 2 * 16 * 16 * 8)


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    assert train.main(["--run", str(tmp_path / "x"), "--dry-run", *TINY_OPTIONS]) == 0
    text = capsys.readouterr().out
    for word in ("telegraph (a 25, c 2)", "1x8x8, 10 classes", "unet 0.01 M parameters", "hours in all"):
        assert word in text
    assert train.main(["--run", str(tmp_path / "x"), "--dry-run", *TINY_OPTIONS, "--network.patch", "2"]) == 0
    assert "unet, patches of 2x2, 0.01 M parameters" in capsys.readouterr().out
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


def test_fashion_says_where_its_images_come_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "none")
    assert (
        train.main(["--preset", "fashion", "--data.path", str(tmp_path / "none"), "--run", str(tmp_path / "run")]) == 1
    )
    assert "apt-get install dataset-fashion-mnist" in capsys.readouterr().err
    assert (
        train.main(["--preset", "fashion", "--data.path", str(tmp_path / "other"), "--run", str(tmp_path / "run")]) == 1
    )
    assert "apt-get" not in capsys.readouterr().err
    assert len(PRESETS["fashion"].class_names) == 10


def test_a_preset_is_the_start_for_the_other_options(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training_cost, "cost", lambda config, device: seen.append(config) or {})
    monkeypatch.setattr(training_cost, "described", lambda *a: "")
    seen = []
    assert train.main(["--preset", "patches", "--a", "9", "--dry-run"]) == 0
    assert (seen[0].data.builtin, seen[0].noise.a, seen[0].network) == ("patches", 9.0, PRESETS["patches"].network)
    with pytest.raises(SystemExit):
        train.main(["--preset", "cifar", "--dry-run"])
    assert "cifar10" in capsys.readouterr().err


@pytest.mark.parametrize("process", ["telegraph", "planar", "quad", "gaussian"])
def test_a_unet_of_patches_trains_distils_and_samples(tmp_path, process):
    run, grid = tmp_path / "run", tmp_path / "grid.png"
    options = ["--process", process, *TINY_OPTIONS, "--network.patch", "2", "--optim.batch-size", "16"]
    assert train.main(["--run", str(run), "--steps", "3", *options]) == 0
    assert load_config(run).network.patch == 2
    assert distill.main([str(run), "--stages", "4,2", "--steps", "2", "--optim.batch-size", "16"]) == 0
    assert load_config(run / "student-2").network == load_config(run).network
    assert sample.main([str(run), "--steps", "2", "--num", "4", "--out", str(grid)]) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--network.patch", "3"], "network.patch must divide height and width of the images, got 3 for 8x8"),
        (["--network.patch", "8"], "images of 8x8, 1x1 in patches of 8, cannot be halved 1 times"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(tmp_path, capsys, options, sentence):
    assert sentence in refused(train, ["--run", tmp_path / "run", *options], capsys)


def test_no_patch_is_refused_with_the_options(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--run", str(tmp_path / "run"), "--network.patch", "0"])
    assert "network.patch must lie in [1, 65536], got 0" in capsys.readouterr().err


def test_a_transformer_trains(tmp_path):
    dit = ["--network.backbone", "dit", "--network.channels", "32", "--network.layers", "2", "--network.head-dim", "16"]
    assert train.main(["--run", str(tmp_path), "--steps", "3", "--optim.batch-size", "16", *dit]) == 0
    assert load_config(tmp_path).network.backbone == "dit"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (NetworkConfig(backbone="dit"), "one number as network.channels"),
        (NetworkConfig(backbone="dit", channels=(32,), patch=3), "network.patch 3 divides"),
        (NetworkConfig(backbone="dit", channels=(30,), head_dim=6), "a width that is a multiple of 4"),
        (
            NetworkConfig(backbone="dit", channels=(36,), head_dim=6, rotary=True),
            "multiple of 4, got 6: take another, or omit",
        ),
        (NetworkConfig(rotary=True), "network.rotary is of the transformer, got network.backbone unet"),
        (NetworkConfig(qk_norm=True), "network.qk_norm is of the transformer"),
    ],
)
def test_impossible_transformers_are_explained(config, message):
    with pytest.raises(ValueError, match=message):
        VelocityNet(config, (1, 8, 8), 10)
