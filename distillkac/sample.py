"""Draw images from a run: `python -m distillkac.sample runs/demo --steps 1`."""

import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image

from distillkac import plots
from distillkac.checkpoints import write_atomic
from distillkac.commands import command, device
from distillkac.options import parse
from distillkac.sampling import SamplerConfig, Samples, choose, class_labels, generate, open_run


@dataclass(frozen=True)
class SampleArgs:
    """Draws images from a trained run. The same seed makes the same images whatever the batch size."""

    run: tyro.conf.Positional[Path]
    """Run folder, of a teacher with its students or of one network."""
    sampler: Annotated[SamplerConfig, tyro.conf.arg(name="")] = field(default_factory=SamplerConfig)
    num: int = 100
    """Number of images."""
    classes: tuple[str, ...] = ()
    """Classes to draw in turn, by name or number; all by default."""
    seed: int = 0
    """Seed of the prior noise."""
    batch_size: int = 500
    """Images at a time on a GPU; a matter of memory only. A CPU takes blocks of fixed size."""
    out: Path | None = None
    """FILE.png: one grid. FILE.gif: the grid on its way from noise to data. FILE.npz: arrays `images` (uint8, n x H x W x
    C) and `labels`. Else a folder of single PNGs.
    By default RUN/samples/steps-N.png."""
    columns: int = 10
    """Columns of the grid."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(SampleArgs, argv, "python -m distillkac.sample")
    for name in ("num", "columns"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}")
    run = open_run(choose(args.run, args.sampler), device())
    labels = class_labels(run.config, args.num, args.classes)
    out = args.out or args.run / "samples" / f"steps-{args.sampler.steps}.png"
    samples = generate(run, labels, args.sampler, args.seed, args.batch_size, path=out.suffix == ".gif")
    write(samples, out, args.columns)
    rate = args.num / samples.seconds
    print(
        f"{run.name} ({run.folder}): {args.num} images, {args.sampler.steps} steps, nfe {samples.nfe}, {rate:.0f} "
        f"images/s -> {out}"
    )
    return 0


def write(samples: Samples, out: Path, columns: int = 10) -> None:
    """Writes the images in the form that the name `out` asks for: see SampleArgs.out."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        plots.save_grid(samples.images, out, columns=columns)
    elif out.suffix == ".gif":
        plots.save_animation(samples.path, out, columns)
    elif out.suffix == ".npz":
        content = io.BytesIO()
        np.savez_compressed(content, images=to_uint8(samples.images), labels=samples.labels.numpy())
        write_atomic(out, content.getvalue())
    elif out.suffix:
        raise ValueError(f"--out must end in .png, .gif or .npz or be a folder for single PNGs, got {out}")
    else:
        out.mkdir(exist_ok=True)
        names = [f"{i:05d}-class-{label}.png" for i, label in enumerate(samples.labels.tolist())]
        if others := sorted({path.name for path in out.glob("*-class-*.png")} - set(names)):
            raise ValueError(
                f"{out} holds {len(others)} images of another sampling, such as {others[0]}, which would be taken for some of "
                "this one: choose another folder, or empty it"
            )
        for name, image in zip(names, to_uint8(samples.images), strict=True):
            content = io.BytesIO()
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "PNG")
            write_atomic(out / name, content.getvalue())


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """(n, C, H, W) in [-1, 1], clamped -> (n, H, W, C) uint8."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    sys.exit(main())
