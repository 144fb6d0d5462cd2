"""Images to latents, once, before training: `python -m distillkac.encode --data.path DIR --vae NAME --out latents`."""

import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillkac.base import files
from distillkac.base.commands import command, prog
from distillkac.base.options import parse
from distillkac.base.outputs import check_folder
from distillkac.base.paths import PATH_OR_NAME
from distillkac.base.progress import Bar
from distillkac.base.ranges import in_ranges
from distillkac.data.config import DataConfig

if TYPE_CHECKING:
    import torch

    from distillkac.data.config import LatentSpace

ARRAYS = tuple(f"{split}{end}.npy" for split in ("train", "test") for end in ("", "_labels"))


@dataclass(frozen=True)
@in_ranges("", batch_size="[1, 1e9]")
class EncodeArgs:
    """Encodes both splits of a data set with an autoencoder, to be trained on with --data.path OUT.

    Of every image the mean of the encoder's posterior is kept (of a VQModel what is not quantised yet), as float16; with
    --data.flip that of its mirror image too.
    """

    vae: str = field(metadata=PATH_OR_NAME)
    """diffusers' AutoencoderKL or VQModel: a folder, or a name on the Hub such as stabilityai/sd-vae-ft-mse."""
    out: Path
    """New folder."""
    data: DataConfig = field(default_factory=DataConfig)
    batch_size: int = 32
    """Images at a time."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(EncodeArgs, argv, prog("encode"))
    # Torch only now, so that help and mistakes in options come at once.
    from distillkac.data import load
    from distillkac.data.latents import is_latents, write_index
    from distillkac.data.sources import find
    from distillkac.data.vae import load_vae, space_of
    from distillkac.runs.device import device
    from distillkac.runs.lock import take
    from distillkac.runs.run_data import check_place

    if args.data.path is not None and is_latents(Path(args.data.path)):
        raise ValueError(f"--data.path {args.data.path} holds latents, not images")
    if args.data.streaming:
        raise ValueError("encode reads every image once, which needs no --data.streaming: omit it")
    check_place(args.out, args.data.path, "--out")
    check_folder(args.out, *ARRAYS)
    _check_new(args.out)
    find(args.data)  # a mistake in these options is told before an autoencoder is fetched
    vae = load_vae(args.vae, device())
    splits = {split: load(args.data, split) for split in ("train", "test")}
    space = space_of(args.vae, vae, splits["train"].shape)
    # Two at once would fill each other's arrays.
    with contextlib.ExitStack() as held:
        if (problem := take(args.out, held, "latents are being written to")) is not None:
            raise ValueError(problem)
        _check_new(args.out)  # by another that has finished meanwhile
        for split, dataset in splits.items():
            shape = encode_split(dataset, split, vae, space, args.out, args.batch_size)
            print(f"{split}: {len(dataset)} images {_size(dataset.shape)} -> latents {_size(shape)}")
        write_index(args.out, space, args.data, splits["train"])
    print(f"train on them with --data.path {args.out}")
    return 0


def _check_new(out: Path) -> None:
    from distillkac.data.latents import is_latents
    from distillkac.runs.lock import LOCK

    if is_latents(out):
        raise ValueError(f"{out} holds latents already: choose another folder, or remove it")
    ours = {*ARRAYS, *(f".{name}.tmp" for name in ARRAYS), LOCK}  # of an encoding that was killed
    if others := sorted({path.name for path in (out.iterdir() if out.is_dir() else ())} - ours):
        raise ValueError(f"{out} holds {len(others)} other files, such as {others[0]}: choose a new folder for latents")


def encode_split(
    dataset, split: str, vae: "torch.nn.Module", space: "LatentSpace", out: Path, batch_size: int
) -> tuple[int, ...]:
    """Writes OUT/SPLIT.npy and its labels; returns (c, h, w). No more than a batch is held in memory."""
    from distillkac.data import to_unit
    from distillkac.data.vae import encode
    from distillkac.runs.device import device

    shape, labels = None, np.empty(len(dataset), dtype=np.int64)
    # Written piece by piece: where a file that is mapped to memory meets a full disk, the process is killed.
    with files.replacing(out / f"{split}.npy") as file:
        for first in Bar(range(0, len(dataset), batch_size), title=split, unit="batch", leave=True):
            rows = range(first, min(first + batch_size, len(dataset)))
            x, y = dataset.__getitems__(rows)
            z = encode(vae, space, to_unit(x.to(device()))).cpu()
            if not z.isfinite().all() or z.abs().max() > np.finfo(np.float16).max:
                raise ValueError(
                    f"{space.vae}: latents of {split} images {rows.start} to {rows.stop - 1} are not finite"
                )
            if shape is None:
                shape = tuple(z.shape[1:])
                about = {"descr": "<f2", "fortran_order": False, "shape": (len(dataset), *shape)}
                np.lib.format.write_array_header_1_0(file, about)
            file.write(z.numpy().astype("<f2").tobytes())
            labels[rows.start : rows.stop] = y.numpy()
        if shape is None:
            raise ValueError(f"there are no {split} images to encode")
    with files.replacing(out / f"{split}_labels.npy") as file:
        np.save(file, labels)
    return shape


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


if __name__ == "__main__":
    sys.exit(main())
