"""Small models of diffusers with random weights, saved as their owners would."""

from pathlib import Path

import diffusers
import torch

UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "add_attention": False,
}
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 3,
}
SCHEDULERS = {
    "epsilon": lambda: diffusers.DDPMScheduler(),
    "v_prediction": lambda: diffusers.DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False
    ),
    "sample": lambda: diffusers.DPMSolverMultistepScheduler(prediction_type="sample", beta_schedule="scaled_linear"),
    "zero": lambda: diffusers.EulerDiscreteScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    "trained": lambda: diffusers.DDPMScheduler(num_train_timesteps=5, trained_betas=[0.1, 0.2, 0.3, 0.5, 0.9]),
    "edm": lambda: diffusers.EDMEulerScheduler(),
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}


def unet(**settings) -> diffusers.UNet2DModel:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**UNET | settings)


def saved(folder: Path, scheduler: str = "v_prediction", **settings) -> Path:
    """A U-Net with its scheduler beside it."""
    unet(**settings).save_pretrained(folder)
    SCHEDULERS[scheduler]().save_pretrained(folder)
    return folder


def saved_dit(folder: Path) -> Path:
    """A pipeline of a transformer that learned latents, with its autoencoder."""
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(**DIT, out_channels=8)
    vae = diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
    )
    diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler(clip_sample=False)).save_pretrained(folder)
    return folder


def saved_ldm(folder: Path, autoencoder: str = "VQModel", **settings) -> Path:
    """An unconditional pipeline of latents, with its autoencoder."""
    torch.manual_seed(0)
    vae = getattr(diffusers, autoencoder)(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=3,
        scaling_factor=0.7,
    )
    if autoencoder == "VQModel":  # of the size of latents, as of a trained one
        torch.nn.init.normal_(vae.quantize.embedding.weight)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}  # of latent diffusion
    scheduler = diffusers.DDIMScheduler(**betas, clip_sample=False, timestep_spacing="trailing")
    diffusers.LDMPipeline(vae, unet(**{"in_channels": 3, "out_channels": 3} | settings), scheduler).save_pretrained(
        folder
    )
    return folder
