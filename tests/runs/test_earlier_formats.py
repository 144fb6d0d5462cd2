"""Runs and pipelines of earlier formats are the networks that they were: up to format 3 a U-Net had no patches, though 2 was
written for it."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from distillkac.base import files
from distillkac.flow.networks import NetworkConfig, VelocityNet
from distillkac.pipeline import KacNet
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config, save_config
from distillkac.runs.run import load_network
from distillkac.training import resume
from tests.runs.toy_runs import made, same
from tests.toys import SHAPE, run_config, trainer

# As the version with format 3 wrote them, word for word; the first two formats had the same fields here.
WRITTEN = {
    "unet": """{"backbone": "unet", "channels": [32], "layers": 1, "scale_shift": false, "patch": 2, "attention": [],
        "middle_attention": false, "head_dim": 8, "dropout": 0.0, "guidance_embedding": false}""",
    "dit": """{"backbone": "dit", "channels": [16], "layers": 1, "scale_shift": false, "patch": 2, "attention": [],
        "middle_attention": true, "head_dim": 8, "dropout": 0.0, "guidance_embedding": false}""",
}
TODAY = {
    "unet": NetworkConfig(channels=(32,), head_dim=8, middle_attention=False),
    "dit": NetworkConfig("dit", channels=(16,), head_dim=8),
}
PATCHED = replace(TODAY["unet"], patch=2)


def as_written(run, backbone, number):
    """Puts what an earlier version wrote into config.json and the checkpoint. number: None is format 1, without a number."""
    content = json.loads((run / checkpoints.CONFIG).read_text()) | {"network": json.loads(WRITTEN[backbone])}
    state = torch.load(run / checkpoints.STATE, weights_only=True)
    for stored in (content, state):
        assert stored.pop("format") == checkpoints.FORMAT
        stored |= {} if number is None else {"format": number}
    files.write_json(run / checkpoints.CONFIG, content)
    torch.save(state, run / checkpoints.STATE)


# Format 4 without the options that came later is written as format 3 was, for transformers.
VERSIONS = [(backbone, number) for backbone in WRITTEN for number in (None, 1, 2, 3)] + [("dit", 4)]


@pytest.mark.parametrize(("backbone", "number"), VERSIONS)
def test_an_earlier_run_is_the_network_that_it_was_and_goes_on(tmp_path, backbone, number):
    run = made(tmp_path / "run", network=TODAY[backbone])
    before = load_network(run, load_config(run))
    as_written(run, backbone, number)
    config = load_config(run)
    assert config.network.side == (1 if backbone == "unet" else 2)
    network = load_network(run, config)
    assert same(network.state_dict(), before.state_dict())
    x, t, y = torch.randn(2, *SHAPE), torch.tensor([0.2, 0.7]), torch.tensor([0, 2])
    torch.testing.assert_close(network(x, t, y), before(x, t, y))
    if backbone == "unet":
        assert network.unet.config.in_channels == 1
    for patch in (None, config.network.side):
        longer = replace(config, network=replace(TODAY[backbone], patch=patch), steps=4)
        assert resume.check(run, longer, resume=True) == config
    assert trainer(run, longer).fit().step == 4
    save_config(run, longer)
    assert json.loads((run / checkpoints.CONFIG).read_text())["format"] == checkpoints.FORMAT
    assert load_config(run) == longer


@pytest.mark.parametrize("number", [3, checkpoints.FORMAT])
def test_a_run_is_not_resumed_with_another_patch(tmp_path, number):
    run = made(tmp_path / "run", network=TODAY["unet"])
    if number == 3:
        as_written(run, "unet", number)
    with pytest.raises(ValueError, match=r"trained with --network\.patch 1, which --resume cannot change to .*patch 2"):
        resume.check(run, run_config(network=PATCHED), resume=True)


def test_a_run_with_patches_loads_as_it_was_trained(tmp_path):
    run = made(tmp_path / "run", network=PATCHED)
    assert load_config(run).network == PATCHED
    network = load_network(run, load_config(run))
    assert (network.unet.config.in_channels, network.unet.config.sample_size) == (4, (2, 2))
    with pytest.raises(ValueError, match=r"patch 2, which --resume cannot change to --network\.patch 1"):
        resume.check(run, run_config(network=TODAY["unet"]), resume=True)
    as_written(run, "unet", 3)  # a lie: its weights are those of a network with patches
    with pytest.raises(ValueError, match=r"does not fit the network of config\.json: unet\.conv_in\.weight"):
        load_network(run, load_config(run))


@pytest.mark.parametrize(("backbone", "number"), [version for version in VERSIONS if version[1] != 1])
def test_an_earlier_pipelines_network_likewise(tmp_path, backbone, number):
    before = VelocityNet(TODAY[backbone], SHAPE, 2).eval()
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.normal_(std=0.1)
    content = {"_class_name": "KacNet", "class_names": ["dark", "bright"], "shape": list(SHAPE)}
    content |= {"network": json.loads(WRITTEN[backbone])} | ({} if number is None else {"format": number})
    first, again = tmp_path / "first", tmp_path / "again"
    first.mkdir()
    files.write_json(first / "config.json", content)
    weights = {f"velocity.{name}": value for name, value in before.state_dict().items()}
    save_file(weights, first / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    KacNet.from_pretrained(first).save_pretrained(again)
    assert same(load_file(again / "diffusion_pytorch_model.safetensors"), weights)
    x, t, y = torch.randn(2, *SHAPE), torch.tensor([0.2, 0.7]), torch.tensor([0, 2])
    for folder in (first, again):
        velocity = KacNet.from_pretrained(folder).velocity
        assert velocity.config.side == (1 if backbone == "unet" else 2)
        torch.testing.assert_close(velocity(x, t, y), before(x, t, y))


def test_a_pipelines_network_with_patches_is_saved_and_loaded(tmp_path):
    made_now = KacNet(vars(PATCHED), SHAPE, ("dark", "bright"))
    with torch.no_grad():
        for parameter in made_now.parameters():
            parameter.normal_(std=0.1)
    made_now.eval().save_pretrained(tmp_path)
    again = KacNet.from_pretrained(tmp_path)
    assert again.velocity.config == PATCHED
    x, t, y = torch.randn(2, *SHAPE), torch.tensor([0.2, 0.7]), torch.tensor([0, 2])
    torch.testing.assert_close(again(x, t, y), made_now(x, t, y))


def test_a_run_is_not_resumed_with_another_attention(tmp_path):
    run = made(tmp_path / "run", network=TODAY["dit"])
    other = replace(load_config(run), network=replace(TODAY["dit"], qk_norm=True, rotary=True))
    with pytest.raises(ValueError, match=r"cannot change to --network\.qk-norm and --network\.rotary"):
        resume.check(run, other, resume=True)
