"""Runs of models that diffusers saved: what they are, and what is refused."""

import json
import re

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from distillkac import adopt as command
from distillkac.base import files
from distillkac.data import DataConfig, from_tensors
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import integrate
from distillkac.runs import SamplerConfig, adopt, class_labels, field_of, generate, load_config, open_run
from distillkac.runs.back import save_for_diffusers
from tests.adopted import SCHEDULERS, UNET, saved, saved_dit, unet

KINDS = [(name, classes) for name in SCHEDULERS for classes in (None, 3)]


def images(classes: int = 2, size: int = 8):
    x = torch.randint(0, 256, (8, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return from_tensors(x, torch.arange(8) % classes)


def change(path, **values) -> None:
    files.write_json(path, files.read_json(path) | values)


@pytest.mark.parametrize(("name", "classes"), KINDS)
def test_every_kind_is_adopted_sampled_and_given_back(tmp_path, name, classes):
    run = adopt(saved(tmp_path / "model", name, num_class_embeds=classes), tmp_path / "run")
    assert len(run.config.class_names) == (classes or 1)
    assert run.config == load_config(tmp_path / "run")
    images = generate(run, class_labels(run.config, 4), SamplerConfig(3)).images
    assert torch.isfinite(images).all()
    save_for_diffusers(run, tmp_path / "back")
    text = (tmp_path / "back" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    torch.manual_seed(1)
    noise = torch.randn(4, 1, 8, 8)
    torch.manual_seed(1)
    known = {}
    exec(code.replace('"FOLDER"', repr(str(tmp_path / "back"))), known)
    x = run.process.prior_std * noise
    with torch.no_grad():
        ours = x - run.network(x, torch.ones(4), torch.zeros(4, dtype=torch.int64))
    theirs = known["images"]
    if not torch.is_tensor(theirs):  # pictures of DDIMPipeline, bytes
        theirs = torch.stack([torch.tensor(list(image.getdata())).view(1, 8, 8) for image in theirs]) / 127.5 - 1
        assert (theirs - ours.clamp(-1, 1)).abs().max() < 0.01
    else:
        if run.config.network.clip:
            ours = ours.clamp(-1, 1)
        assert (theirs - ours).norm() < 1e-4 * ours.norm()


def test_its_steps_are_those_of_ddim(tmp_path):
    """The same network, noise and times: the same images."""
    run = adopt(saved(tmp_path / "model"), tmp_path / "run")
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "model", timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    bars = scheduler.alphas_cumprod[scheduler.timesteps].double()
    taus = (1 - bars).sqrt() / (bars.sqrt() + (1 - bars).sqrt())
    grid = (torch.cat([taus, torch.zeros(1)]) / run.config.network.tau_max).clamp(max=1)
    x, y = run.process.prior(4, run.config.shape, 0), torch.zeros(4, dtype=torch.int64)
    theirs = x / run.process.prior_std
    with torch.no_grad():
        images = integrate(GuidedVelocity(run.network), x, y, grid, "euler")
        for t in scheduler.timesteps:
            theirs = scheduler.step(run.network.model(theirs, t).sample, t, theirs).prev_sample
    assert (images - theirs).abs().max() <= 1e-4


def test_a_class_more_than_the_images_have_means_no_class(tmp_path, capsys):
    model = saved(tmp_path / "model", num_class_embeds=3)
    run = adopt(model, tmp_path / "run", images(2))
    assert run.network.null_class == 2
    field_of(run, SamplerConfig(w=1.0))
    assert adopt(model, tmp_path / "three", images(3)).network.null_class is None
    with pytest.raises(ValueError, match="cannot be guided"):
        field_of(open_run(tmp_path / "three"), SamplerConfig(w=1.0))
    assert adopt(model, tmp_path / "told", null_class=True).network.null_class == 2
    for name, options in (("silent", []), ("said", ["--null-class", "True"])):
        assert command.main([str(model), "--run", str(tmp_path / name), *options]) == 0
        assert ("adopt it with --null-class True" in capsys.readouterr().out) == (not options)


def test_a_transformer_of_latents(tmp_path):
    change(
        saved_dit(tmp_path / "dit") / "model_index.json", id2label={"0": "tench, Tinca", "1": "goldfish", "2": "shark"}
    )
    run = adopt(tmp_path / "dit", tmp_path / "run")
    assert run.config.class_names == ("tench", "goldfish", "shark")
    assert run.network.null_class == 3
    assert run.config.latent.shape == (3, 16, 16)
    drawn = generate(run, class_labels(run.config, 2), SamplerConfig(2, w=1.0)).images
    assert drawn.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="encode them first"):
        adopt(tmp_path / "dit", tmp_path / "other", images(3))
    save_for_diffusers(run, tmp_path / "back")
    assert diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "back", subfolder="transformer")


def test_the_command(tmp_path, capsys):
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()).save_pretrained(tmp_path / "pipeline")
    run = tmp_path / "run"
    assert command.main([str(tmp_path / "pipeline"), "--run", str(run)]) == 0
    told = capsys.readouterr().out
    assert "UNet2DModel, linear, epsilon, 1x8x8, 1 classes" in told
    assert "not used" not in told
    assert load_config(run).network.clip == 1
    assert command.main([str(tmp_path / "pipeline"), "--run", str(run)]) == 1
    assert "holds a run already" in capsys.readouterr().err
    with_images = [str(tmp_path / "pipeline"), "--data.unconditional", "--run", str(tmp_path / "digits")]
    assert command.main(with_images) == 0
    assert load_config(tmp_path / "digits").data == DataConfig(unconditional=True)
    assert load_config(tmp_path / "digits").fingerprint is not None


def refused(tmp_path, sentence, source="model", dataset=None, **options) -> None:
    with pytest.raises(ValueError, match=sentence):
        adopt(tmp_path / source, tmp_path / "run", dataset, **options)
    assert not (tmp_path / "run").exists()


def test_images_that_do_not_fit_are_refused(tmp_path):
    saved(tmp_path / "model")
    refused(tmp_path, "is for images of 8x8, and these are 16x16: set --data.image-size", dataset=images(1, 16))
    refused(tmp_path, "knows no classes, and the images have 2: add --data.unconditional", dataset=images(2))
    saved(tmp_path / "many", num_class_embeds=9)
    refused(tmp_path, "knows 9 classes, and there are 2", "many", images(2))
    saved(tmp_path / "colour", in_channels=3, out_channels=3)
    refused(tmp_path, "samples of 3 channels, and these are 1x8x8", "colour", images(1))
    refused(tmp_path, "knows no classes, so none of them means no class", null_class=True)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DModel and DiTTransformer2DModel would be understood"),
        ({"class_embed_type": "timestep"}, "class_embed_type timestep is not understood"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 9}, "time_embedding_type learned is not understood"),
        ({"time_embedding_type": "fourier"}, "the logarithm of their numbers.*; positional would be"),
        ({"block_out_channels": [8, 24]}, "its weights are no UNet2DModel of its config.json"),
        ({"norm_num_groups": 5}, "these settings make no UNet2DModel"),
        ({"out_channels": 5}, "as many, or twice as many"),
        ({"something": 5}, "has no something: update diffusers"),
        ({"layers_per_block": 2}, r"its weights are no UNet2DModel of its config.json \(size mismatch for"),
        (
            {"down_block_types": ["DownBlock2D"] * 2},
            "its weights do not fit its config.json: they have besides down_blocks",
        ),
    ],
)
def test_models_that_are_not_understood_are_refused(tmp_path, values, sentence):
    saved(tmp_path / "model")
    change(tmp_path / "model" / "config.json", **values)
    refused(tmp_path, sentence)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"_class_name": "SomeScheduler"}, "EDMEulerScheduler, FlowMatchEulerDiscreteScheduler would be understood"),
        ({"prediction_type": "score"}, "prediction_type score; epsilon, v_prediction, sample, flow_prediction would"),
        ({"beta_schedule": "laplace"}, "beta_schedule laplace; linear, scaled_linear, squaredcos_cap_v2, sigmoid and"),
        ({"trained_betas": [0.1, 0.0, 0.1, 0.1]}, "cannot be inverted"),
        ({"trained_betas": [0.1, "x"]}, "could not convert"),
        ({"timestep_type": "continuous"}, "timestep_type continuous is not understood; discrete would be"),
        ({"num_train_timesteps": "many"}, "scheduler_config.json"),
        ({"prediction_type": "flow_prediction"}, "predicts epsilon or v_prediction or sample, got flow"),
    ],
)
def test_schedulers_that_are_not_understood_are_refused(tmp_path, values, sentence):
    saved(tmp_path / "model")
    change(tmp_path / "model" / "scheduler_config.json", **values)
    refused(tmp_path, sentence)


@pytest.mark.parametrize("zero", [True, False])
def test_a_prediction_of_noise_is_used_as_far_as_it_says_something(tmp_path, capsys, zero):
    saved(tmp_path / "model")
    values = {"prediction_type": "epsilon", "rescale_betas_zero_snr": zero, "thresholding": True}
    change(tmp_path / "model" / "scheduler_config.json", **values)
    assert command.main([str(tmp_path / "model"), "--run", str(tmp_path / "run")]) == 0
    network = open_run(tmp_path / "run").config.network
    assert 100 < network.schedule.ends[1] <= 160
    told = capsys.readouterr().out
    assert f"not used: the last {1000 - network.schedule.used} of its 1000 timesteps" in told
    assert "not used: its scheduler's thresholding" in told
    run = adopt(tmp_path / "model", tmp_path / "farther", max_ratio=500.0)
    assert 300 < run.config.network.schedule.ends[1] <= 500
    save_for_diffusers(run, tmp_path / "back")
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "back" / "scheduler")
    assert scheduler.config.num_train_timesteps == run.config.network.schedule.used
    bars = 1 / (1 + run.config.network.schedule.ratios().square())
    assert torch.allclose(scheduler.alphas_cumprod.double(), bars, rtol=1e-5)
    for wrong, sentence in (
        (-1.0, "max_ratio must be positive and finite"),
        ("160", "max_ratio must be a number"),
        (1e-3, "leaves nothing of a schedule"),
        *(() if zero else ((1e6, "leaves out nothing"),)),
    ):
        with pytest.raises(ValueError, match=sentence):
            adopt(tmp_path / "model", tmp_path / "none", max_ratio=wrong)


def test_a_scheduler_of_another_place(tmp_path):
    saved(tmp_path / "model")
    (tmp_path / "model" / "scheduler_config.json").rename(tmp_path / "scheduler_config.json")
    refused(tmp_path, "say with --scheduler where its scheduler_config.json is")
    refused(tmp_path, "there is no scheduler_config.json; name the folder that holds it", scheduler=tmp_path / "none")
    assert adopt(tmp_path / "model", tmp_path / "run", scheduler=tmp_path).config.network.prediction == "v_prediction"
    diffusers.DDPMPipeline(unet(), diffusers.FlowMatchEulerDiscreteScheduler()).save_pretrained(tmp_path / "pipeline")
    of_pipeline = adopt(tmp_path / "model", tmp_path / "other", scheduler=tmp_path / "pipeline")
    assert of_pipeline.config.network.prediction == "flow"


def test_a_run_of_ours_is_told_from_a_model(tmp_path):
    adopt(saved(tmp_path / "model"), tmp_path / "first")
    refused(tmp_path, "is a run folder of distillkac already", "first")
    (tmp_path / "first" / "ema.safetensors").unlink()
    refused(tmp_path, "is a run folder without ema.safetensors", "first")


def test_weights_of_a_variant_are_told_by_their_name(tmp_path):
    saved(tmp_path / "model")
    path = tmp_path / "model" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".fp16.safetensors"))
    refused(
        tmp_path, "holds no diffusion_pytorch_model.safetensors, but diffusion_pytorch_model.fp16.safetensors: if that"
    )


@pytest.mark.parametrize(("part", "values"), [("noise", {"sigma": 3.0, "tau_max": 0.5}), ("network", {"sigma": 0.0})])
def test_a_process_that_is_not_the_models_is_refused(tmp_path, part, values):
    adopt(saved(tmp_path / "model"), tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    change(config, **{part: files.read_json(config)[part] | values})
    with pytest.raises(ValueError, match=r"process of this adopted model is gaussian, sigma 1|sigma must be"):
        load_config(tmp_path / "run")


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path):
    saved(tmp_path / "model")
    unet().save_pretrained(tmp_path / "model", safe_serialization=False)
    (tmp_path / "model" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="is a pickle, which can run any code") as told:
        adopt(tmp_path / "model", tmp_path / "run")
    (code,) = re.findall(r'python -c "(.*)"', str(told.value))
    exec(code, {})
    adopt(tmp_path / "model", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **UNET}))
    (tmp_path / "model" / "scheduler_config.json").rename(tmp_path / "empty" / "scheduler_config.json")
    with pytest.raises(ValueError, match="holds no weights"):
        adopt(tmp_path / "empty", tmp_path / "other")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path = saved(tmp_path / "model") / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, path, {"format": "pt"})
    refused(tmp_path, "conv_in.bias holds values that are not finite")


def test_pipelines_with_other_parts_are_refused(tmp_path):
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()).save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    change(index, text_encoder=["transformers", "CLIPTextModel"])
    refused(tmp_path, r"its part text_encoder \(CLIPTextModel\) is not understood; a pipeline of a UNet2DModel or")
    change(index, text_encoder=["diffusers", "ControlNetModel"])
    refused(tmp_path, "ControlNetModel")
    change(index, text_encoder=[None, None], unet=[None, None])
    refused(tmp_path, "its parts are scheduler; a pipeline of")


def test_places_without_a_model_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    refused(tmp_path, "holds neither model_index.json of a pipeline nor config.json of a model")
    refused(tmp_path, "is not there", "nothing")
    (tmp_path / "file").write_text("")
    refused(tmp_path, "is a file", "file")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="somebody/something is no folder here, and cannot be had from the Hub"):
        adopt("somebody/something", tmp_path / "run")
    saved(tmp_path / "wrong")
    refused(tmp_path, "sigma must be positive and finite", "wrong", sigma=0.0)


def test_what_needs_images_says_so(tmp_path):
    from distillkac.distillation import DistillConfig, distill

    run = adopt(saved(tmp_path / "model"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"was adopted without the images .* and method endpoint learns from them"):
        distill(run, config=DistillConfig(stages=(2, 1), steps=(1,)))
