"""The way back: the network of an adopted run as diffusers alone loads it.

One step of ours from t = 1 is one step of diffusers' own schedulers from their last timestep: both go to the data that the
network sees, from the same noise. At more steps their times are others than a student's, so one step is all that is written.
"""

import contextlib
from pathlib import Path
from typing import Any

import torch

from distillkac.base import files, progress
from distillkac.data import vae
from distillkac.flow.adopted import AdoptedNet, AdoptedNetwork
from distillkac.runs import shipped
from distillkac.runs.run import Run

CPU = torch.device("cpu")
IN_DDIM = ("linear", "scaled_linear", "squaredcos_cap_v2")


def save_for_diffusers(run: Run, out: Path) -> None:
    """Writes the model and a scheduler of one step to the folder `out`, with a README.md of the few lines that sample it.

    run: whose network takes one step. Raises ValueError if it is not of diffusers, or `out` holds something.
    """
    network = run.network
    if not isinstance(network, AdoptedNet):
        raise ValueError(
            f"{out} is a folder, which would be for diffusers alone, and {shipped.told(run.folder)} has a network of "
            "distillkac's own, which diffusers alone cannot load: name FILE.onnx or FILE.pt2 "
            "(in Python, KacPipeline.from_pretrained(...).save_pretrained(...) writes a folder that distillkac loads)"
        )
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} holds files already: choose a new folder")
    import diffusers

    part = "unet" if network.config.model == "UNet2DModel" else "transformer"
    scheduler = _scheduler(network.config)
    if not network.model.config.sample_size:  # the pipelines of diffusers make noise of that size
        network.model.register_to_config(sample_size=list(network.shape[1:]))
    with progress.quiet("diffusers"), contextlib.redirect_stdout(None):
        if (plain := _plain(run, network)) is not None:
            parts = {} if run.config.latent is None else {"vqvae": vae.decoder(run.config.latent, CPU)}
            getattr(diffusers, plain)(unet=network.model, scheduler=scheduler, **parts).save_pretrained(out)
        else:
            network.model.save_pretrained(out / part)
            scheduler.save_pretrained(out / "scheduler")
    files.write_atomic(out / "README.md", _readme(run, network, type(scheduler).__name__, part, plain).encode())


def _plain(run: Run, network: AdoptedNet) -> str | None:
    """The pipeline of diffusers that samples it: of those that know no classes, for images or for latents of a VQModel."""
    config, latent = network.config, run.config.latent
    alone = config.settings.get("out_channels", 3) == config.settings.get("in_channels", 3)
    if config.model != "UNet2DModel" or config.classes is not None or not (config.schedule.has_table and alone):
        return None
    if latent is None:
        return "DDIMPipeline"
    return "LDMPipeline" if type(vae.decoder(latent, CPU)).__name__ == "VQModel" else None


def _scheduler(config: AdoptedNetwork) -> Any:
    """Of diffusers, whose one step from its last timestep ends where the network sees the data."""
    import diffusers

    schedule, prediction = config.schedule, config.prediction
    if schedule.name == "flow":
        return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=schedule.timesteps)
    if schedule.name == "edm":
        sigmas = {name: getattr(schedule, name) for name in ("sigma_min", "sigma_max", "sigma_data")}
        return diffusers.EDMEulerScheduler(**sigmas, prediction_type=prediction)
    if schedule.name in IN_DDIM and schedule.used is None:
        betas: dict[str, Any] = {
            "beta_schedule": schedule.name,
            "beta_start": schedule.beta_start,
            "beta_end": schedule.beta_end,
        }
        betas["rescale_betas_zero_snr"] = schedule.zero_terminal_snr
    else:
        betas = {"trained_betas": schedule.all_betas().tolist()}
    return diffusers.DDIMScheduler(
        num_train_timesteps=schedule.used or schedule.timesteps,
        **betas,
        prediction_type=prediction,
        clip_sample=config.clip is not None,
        clip_sample_range=config.clip or 1.0,
        timestep_spacing="trailing",
    )


def _readme(run: Run, network: AdoptedNet, scheduler: str, part: str, plain: str | None) -> str:
    shape, names = network.shape, run.config.class_names
    title = f"# {network.config.model} for one step\n\nMade with distillkac ({run.name}); diffusers alone samples it.\n"
    if plain is not None:
        return (
            title + f"\n```python\nfrom diffusers import {plain}\n\n"
            f'pipeline = {plain}.from_pretrained("FOLDER")  # this folder\n'
            "images = pipeline(batch_size=4, num_inference_steps=1).images\n```\n"
        )
    classes = network.config.classes is not None
    labels = ", class_labels=torch.zeros(4, dtype=torch.int64)" if classes else ""
    scaled = "x" if scheduler.startswith(("DDIM", "FlowMatch")) else "scheduler.scale_model_input(x, t)"
    noise = " * scheduler.init_noise_sigma" if scheduler.startswith("EDM") else ""
    lines = [
        "import torch",
        f"from diffusers import {scheduler}, {network.config.model}",
        "",
        f'model = {network.config.model}.from_pretrained("FOLDER", subfolder="{part}").eval()  # this folder',
        f'scheduler = {scheduler}.from_pretrained("FOLDER", subfolder="scheduler")',
        "scheduler.set_timesteps(1)",
        f"t, x = scheduler.timesteps[0], torch.randn(4, {shape[0]}, {shape[1]}, {shape[2]}){noise}",
        "with torch.no_grad():",
        f"    answer = model({scaled}, timestep=t.expand(4){labels}).sample[:, :{shape[0]}]",
        f"images = scheduler.step(answer, t, x).prev_sample  # in [-1, 1]{'' if network.config.clip else ', not clamped'}",
    ]
    listed = f"\nIts classes, from 0: {', '.join(names)}.\n" if classes else ""
    latent = run.config.latent
    if latent is not None:
        listed += (
            f"\nWhat it gives are latents z of the autoencoder {latent.vae}: the images are "
            f"vae.decode(z / {latent.scaling_factor:g} + {latent.shift_factor:g}).sample.\n"
        )
    return title + "\n```python\n" + "\n".join(lines) + "\n```\n" + listed
