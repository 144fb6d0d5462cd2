"""The weights that diffusers saved: safetensors, of one file or of several. Pickles can run any code, and are not read."""

from pathlib import Path

from torch import nn

from distillkac.base import progress
from distillkac.flow.adopted import MODELS

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check(folder: Path, kind: str) -> None:
    """Raises ValueError unless the folder of a model holds weights that are read. kind: its class."""
    weights = sorted(path.name for path in folder.iterdir() if path.is_file())
    if {WEIGHTS, f"{WEIGHTS}.index.json"} & set(weights):
        return
    if others := [name for name in weights if name.endswith(".safetensors")]:
        raise ValueError(
            f"{folder} holds no {WEIGHTS}, but {others[0]}: if that is one file with all of its weights, of a variant perhaps, "
            f"call it {WEIGHTS}"
        )
    if pickles := [name for name in weights if name.endswith(PICKLES)]:
        raise ValueError(
            f"{folder / pickles[0]} is a pickle, which can run any code as it is opened, and is not read; if you trust it, "
            f'convert it: python -c "from diffusers import {kind} as M; M.from_pretrained({str(folder)!r}, '
            f'use_safetensors=False).save_pretrained({str(folder)!r})"'
        )
    raise ValueError(
        f"{folder} holds no weights: {WEIGHTS} is looked for; of a name on the Hub nothing but safetensors is downloaded: "
        "if there are pickles alone, download them (hf download NAME --local-dir DIR) and name that folder"
    )


def load(folder: Path, kind: str) -> nn.Module:
    """The model of a folder, float32. Raises ValueError if its weights are a pickle, or do not fit."""
    check(folder, kind)
    import torch

    try:
        with progress.quiet("diffusers"):
            model, problems = MODELS[kind]().from_pretrained(
                str(folder),
                use_safetensors=True,
                torch_dtype=torch.float32,
                low_cpu_mem_usage=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever diffusers and the library of the files raise
        raise ValueError(f"{folder}: its weights are no {kind} of its {CONFIG} ({reason(error)})") from None
    for name, word in (("missing_keys", "lack"), ("unexpected_keys", "have besides")):
        if problems[name]:
            raise ValueError(f"{folder}: its weights do not fit its {CONFIG}: they {word} {sorted(problems[name])[0]}")
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{folder}: {name} holds values that are not finite")
    return model


def reason(error: Exception) -> str:
    """The first line of what a library says that is no heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.strip().endswith(":")]
    return lines[0] if lines else type(error).__name__
