"""Where the parts of other people's models lie, and what their files say besides."""

import fnmatch
import re
import shutil

import diffusers
import pytest
import torch

from distillkac.base import files
from distillkac.runs import adopt
from tests.adopted import saved, saved_dit, saved_ldm, unet

WEIGHTS = "diffusion_pytorch_model.safetensors"


def change(path, **values) -> None:
    files.write_json(path, files.read_json(path) | values)


def pipeline(folder, flat: bool = False):
    """flat: as the first pipelines are on the Hub, google/ddpm-cifar10-32 among them, with all parts in one folder."""
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()).save_pretrained(folder)
    for part in ("unet", "scheduler") if flat else ():
        for path in (folder / part).iterdir():
            path.rename(folder / path.name)
        (folder / part).rmdir()
    return folder


def same_weights(run) -> bool:
    return all(torch.equal(value, run.network.model.state_dict()[name]) for name, value in unet().state_dict().items())


def test_a_pipeline_in_one_folder(tmp_path):
    assert diffusers.DDPMPipeline.from_pretrained(pipeline(tmp_path / "model", flat=True))
    assert same_weights(adopt(tmp_path / "model", tmp_path / "run"))


@pytest.mark.parametrize("flat", [True, False])
def test_of_a_name_on_the_hub_only_what_is_read_is_fetched(tmp_path, monkeypatch, flat):
    hub, here = pipeline(tmp_path / "hub", flat), tmp_path / "here"
    place = hub if flat else hub / "unet"
    (place / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    (hub / "safety").mkdir()
    (hub / "safety" / "other.safetensors").write_bytes(b"of no part that is read")

    def download(name, allow_patterns):
        assert name == "somebody/ddpm"
        for path in (p for p in hub.rglob("*") if p.is_file()):
            inside = path.relative_to(hub)
            if any(fnmatch.fnmatch(inside.as_posix(), pattern) for pattern in allow_patterns):
                (here / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, here / inside)
        return str(here)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert same_weights(adopt("somebody/ddpm", tmp_path / "run"))
    assert not list(here.rglob("*.bin"))
    assert flat or not list(here.rglob("other.safetensors"))


def test_weights_in_several_files(tmp_path):
    saved(tmp_path / "model")
    (tmp_path / "model" / WEIGHTS).unlink()
    unet().save_pretrained(tmp_path / "model", max_shard_size="20KB")
    shards = sorted((tmp_path / "model").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    assert same_weights(adopt(tmp_path / "model", tmp_path / "run"))
    shards[1].unlink()
    with pytest.raises(ValueError, match=re.escape(shards[1].name)):
        adopt(tmp_path / "model", tmp_path / "other")


def test_halved_weights_are_widened(tmp_path):
    saved(tmp_path / "model")
    unet().to(torch.bfloat16).save_pretrained(tmp_path / "model")
    state = adopt(tmp_path / "model", tmp_path / "run").network.model.state_dict()
    for name, value in unet().state_dict().items():
        assert torch.equal(state[name], value.bfloat16().float())


def test_of_two_schedulers_that_differ_one_is_to_be_named(tmp_path):
    model = pipeline(tmp_path / "pipeline") / "unet"
    diffusers.DDPMScheduler().save_pretrained(model)
    assert adopt(model, tmp_path / "alike").config.network.prediction == "epsilon"
    change(model / "scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(ValueError, match="say different things of the noise: say with --scheduler which"):
        adopt(model, tmp_path / "run")
    assert adopt(model, tmp_path / "run", scheduler=model).config.network.prediction == "v_prediction"


@pytest.mark.parametrize("kind", ["DDPMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_only_schedulers_that_clip_do(tmp_path, kind):
    """One made of the config of another keeps its words, and does not follow them."""
    saved(tmp_path / "model")
    of_ddim = diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=2.0).config
    getattr(diffusers, kind).from_config(of_ddim).save_pretrained(tmp_path / "model")
    assert files.read_json(tmp_path / "model" / "scheduler_config.json")["clip_sample"]
    clip = adopt(tmp_path / "model", tmp_path / "run").config.network.clip
    assert clip == (2.0 if kind == "DDPMScheduler" else None)


def test_only_the_schedulers_of_flows_are(tmp_path):
    saved(tmp_path / "model")
    flow = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    flow.save_pretrained(tmp_path / "model")
    assert adopt(tmp_path / "model", tmp_path / "flow").config.network.schedule.name == "flow"
    diffusers.DDIMScheduler.from_config(flow.config).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"a model of the linear schedule predicts .*, got flow"):
        adopt(tmp_path / "model", tmp_path / "run")


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ([8, 8, 8], r"sample_size must be a whole number of at least 1, or two, got \[8, 8, 8\]"),
        ("8", "sample_size must be a whole number of at least 1, or two, got '8'"),
        (-8, "sample_size must be"),
        (8.0, "sample_size must be"),
        (9, "the model's levels halve its images, which does not go up in 1x9x9"),
        (None, "says no sample_size: give the images that it was trained on, --data.path"),
    ],
)
def test_sizes_that_are_none_are_refused(tmp_path, size, sentence):
    change(saved(tmp_path / "model") / "config.json", sample_size=size)
    with pytest.raises(ValueError, match=sentence):
        adopt(tmp_path / "model", tmp_path / "run")


def test_what_a_config_leaves_out_is_as_diffusers_has_it(tmp_path):
    config = saved(tmp_path / "model", out_channels=3) / "config.json"
    files.write_json(config, {name: value for name, value in files.read_json(config).items() if name != "out_channels"})
    with pytest.raises(ValueError, match="takes 1 channels and answers with 3"):
        adopt(tmp_path / "model", tmp_path / "run")
    config = saved(tmp_path / "colour", in_channels=3, out_channels=3, sample_size=[8, 16]) / "config.json"
    usual = {"in_channels", "out_channels", "add_attention"}
    files.write_json(config, {name: value for name, value in files.read_json(config).items() if name not in usual})
    with pytest.raises(ValueError, match=r"lack mid_block\.attentions"):
        adopt(tmp_path / "colour", tmp_path / "run")
    change(config, add_attention=False)
    run = adopt(tmp_path / "colour", tmp_path / "run")
    assert (run.config.shape, run.config.network.settings["out_channels"]) == ((3, 8, 16), 3)


def test_the_only_class_cannot_mean_none(tmp_path):
    saved(tmp_path / "model", num_class_embeds=1)
    with pytest.raises(ValueError, match="knows one class alone: omit null_class"):
        adopt(tmp_path / "model", tmp_path / "run", null_class=True)


@pytest.mark.parametrize(("save", "part"), [(saved_ldm, "vqvae"), (saved_dit, "vae")])
def test_autoencoders_that_cannot_be_read_are_refused(tmp_path, save, part):
    folder = save(tmp_path / "model") / part
    kind = files.read_json(folder / "config.json")["_class_name"]
    getattr(diffusers, kind).from_pretrained(folder).save_pretrained(folder, safe_serialization=False)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=f'is a pickle, which .* convert it: python -c "from diffusers import {kind}'):
        adopt(tmp_path / "model", tmp_path / "run")
    change(folder / "config.json", _class_name="AutoencoderTiny")
    with pytest.raises(ValueError, match="is of the class AutoencoderTiny; AutoencoderKL or VQModel would be"):
        adopt(tmp_path / "model", tmp_path / "run")
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=f"{part}/config.json does not exist"):
        adopt(tmp_path / "model", tmp_path / "run")


def test_names_of_classes_the_other_way_round_are_refused(tmp_path):
    change(saved_dit(tmp_path / "dit") / "model_index.json", id2label={"tench": 0, "goldfish": 1, "shark": 2})
    with pytest.raises(
        ValueError, match=r"model_index\.json: id2label must name classes by their numbers, got 'tench'"
    ):
        adopt(tmp_path / "dit", tmp_path / "run")


@pytest.mark.parametrize("count", ["10", 10.5, -1, 0, True, 10**12, [10]], ids=str)
def test_numbers_of_classes_that_are_none_are_refused(tmp_path, count):
    for save, name in ((saved, "num_class_embeds"), (saved_dit, "num_embeds_ada_norm")):
        model = tmp_path / name
        save(model)
        config = model / "config.json" if save is saved else model / "transformer" / "config.json"
        assert config.exists()
        change(config, **{name: count})
        with pytest.raises(ValueError, match=rf"config\.json: {name} must be a whole number from 1 to"):
            adopt(model, tmp_path / "run")
