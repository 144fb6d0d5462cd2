"""Between images and latents: diffusers' AutoencoderKL, or its VQModel, of which latents are what its encoder says before its
quantiser, and images are decoded through that, as LDMPipeline does."""

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from distillkac.base.memory import in_own_memory
from distillkac.data.config import LatentSpace

if TYPE_CHECKING:  # it adds seconds to an import
    from diffusers import AutoencoderKL, VQModel

    Autoencoder: TypeAlias = AutoencoderKL | VQModel

AUTOENCODERS = ("AutoencoderKL", "VQModel")


def load_vae(name: str, device: torch.device, local_files_only: bool = False) -> "Autoencoder":
    """AutoencoderKL or VQModel of a folder or the Hub, in eval mode; safetensors only. Raises ValueError if it is none."""
    import diffusers

    try:
        said = diffusers.AutoencoderKL.load_config(name, local_files_only=local_files_only)
        kind = said.get("_class_name", AUTOENCODERS[0])
        if kind not in AUTOENCODERS:
            raise ValueError(f"it is of the class {kind}")
        vae, problems = getattr(diffusers, kind).from_pretrained(
            name,
            use_safetensors=True,
            output_loading_info=True,
            low_cpu_mem_usage=False,
            local_files_only=local_files_only,
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name}: no {' or '.join(AUTOENCODERS)} of diffusers with safetensors weights ({reason}); give its folder or "
            "Hub name"
        ) from None
    if problems["missing_keys"]:
        raise ValueError(f"{name}: no {kind} of diffusers: its weights lack {problems['missing_keys'][0]}")
    return in_own_memory(vae).to(device).eval().requires_grad_(False)


def space_of(name: str, vae: "Autoencoder", shape: tuple[int, int, int]) -> LatentSpace:
    """How this autoencoder's latents of images of `shape` are to be decoded. Raises ValueError if it cannot take them."""
    if shape[0] != vae.config.in_channels:
        raise ValueError(
            f"{name} takes images of {vae.config.in_channels} channels, these have {shape[0]}: set --data.channels"
        )
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"{name} needs height and width that are multiples of {factor}, these are {shape[1]} x {shape[2]}: set "
            "--data.image-size"
        )
    folder = Path(name).expanduser()
    return LatentSpace(
        vae=str(folder.resolve()) if folder.is_dir() else name,
        scaling_factor=float(vae.config.scaling_factor),
        shift_factor=float(getattr(vae.config, "shift_factor", None) or 0.0),
        weights=_digest(vae),
        shape=(shape[0], shape[1], shape[2]),
    )


@torch.no_grad()
def encode(vae: "Autoencoder", space: LatentSpace, x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) in [-1, 1] -> (B, c, h, w): (mean - shift_factor) * scaling_factor of the posterior's mean, or of what is
    not quantised yet."""
    answer = vae.encode(x)
    z = answer.latent_dist.mode() if hasattr(answer, "latent_dist") else answer.latents
    return (z - space.shift_factor) * space.scaling_factor


def channels_of(vae: "Autoencoder") -> int:
    """How many channels a latent has."""
    return int(getattr(vae.config, "vq_embed_dim", None) or vae.config.latent_channels)


@torch.no_grad()
def decode(vae: "Autoencoder", space: LatentSpace, z: torch.Tensor) -> torch.Tensor:
    """(B, c, h, w) -> (B, C, H, W), about [-1, 1]."""
    return vae.decode(z / space.scaling_factor + space.shift_factor).sample


@functools.lru_cache(maxsize=1)
def decoder(space: LatentSpace, device: torch.device) -> "Autoencoder":
    """The autoencoder of a run, loaded once; see `load_decoder`."""
    return load_decoder(space, device)


def load_decoder(space: LatentSpace, device: torch.device, local_files_only: bool = False) -> "Autoencoder":
    """The autoencoder of a run. Raises ValueError if it is not there or not the one that made the latents."""
    check_place(space)
    vae = load_vae(space.vae, device, local_files_only)
    if (found := _digest(vae)) != space.weights:
        raise ValueError(
            f"{space.vae}: not the autoencoder that made the latents (its weights are {found[:12]}, theirs "
            f"{space.weights[:12]}); put that one there, or name its place as latent.vae in the run's config.json"
        )
    return vae


def check_place(space: LatentSpace) -> None:
    """Raises ValueError if the autoencoder of a run lies in a folder that is gone."""
    if Path(space.vae).is_absolute() and not Path(space.vae).exists():
        raise ValueError(
            f"the autoencoder that made the latents should be at {space.vae}, where there is nothing now: put it back, or name "
            "its new place as latent.vae in the run's config.json"
        )


def _digest(vae: "Autoencoder") -> str:
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
