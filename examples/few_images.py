"""Two small classes of Fashion-MNIST, for a training that begins from random weights or from a larger one (docs/recipes.md).

    python examples/few_images.py few                          # writes few/eight.npz and few/two
    python examples/few_images.py few runs/small runs/fresh    # measures runs that were trained on few/two

few/eight.npz has all images of eight classes; few/two the first 150 training images of both others, bags and ankle boots,
and all of their test images. Prints for each run the Fréchet distance to these test images and the accuracy, by the evaluator
of the whole of Fashion-MNIST, and the share of copies.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.data import DataConfig, Dataset, fashion_mnist, load, read
from distillkac.evaluation.copies import Copies
from distillkac.evaluation.metrics import Evaluator, describe
from distillkac.evaluation.moments import Moments, frechet_distance
from distillkac.runs import SamplerConfig, class_labels, generate, open_run

FEW, EACH = ("Bag", "Ankle boot"), 150


@dataclass(frozen=True)
class FewArgs:
    """Writes two sets of images, or measures runs that learned the smaller one."""

    folder: tyro.conf.Positional[Path]
    """Of both sets."""
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Runs to be measured; none: the sets are written."""
    num: int = 500
    """Images of each run, in 20 steps."""


def whole() -> tuple[Dataset, Dataset]:
    """Both splits of Fashion-MNIST, of Debian's package."""
    config = DataConfig(path=str(fashion_mnist.DEBIAN))
    return load(config, "train"), load(config, "test")


def write(folder: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for split, dataset in zip(("train", "test"), whole(), strict=True):
        x, y = read(dataset, range(len(dataset)))
        pixels = ((x[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
        few = [dataset.class_names.index(name) for name in FEW]
        for name, number in zip(FEW, few, strict=True):
            place = folder / "two" / split / name
            place.mkdir(parents=True)
            for i, image in enumerate(pixels[y.numpy() == number][: EACH if split == "train" else None]):
                Image.fromarray(image).save(place / f"{i:05}.png")
        others = [number for number in range(len(dataset.class_names)) if number not in few]
        kept, start = np.isin(y.numpy(), others), "" if split == "train" else "test_"
        arrays |= {f"{start}images": pixels[kept], f"{start}labels": np.searchsorted(others, y.numpy()[kept])}
    np.savez(folder / "eight.npz", **arrays)


def measure(args: FewArgs) -> None:
    evaluator = Evaluator(*whole())
    config = DataConfig(path=str(args.folder / "two"))
    splits = load(config, "train"), load(config, "test")
    mine, real = (read(split, range(len(split)))[0] for split in splits)
    moments, copies = Moments.of(evaluator.features(real)), Copies(*splits)
    known = torch.tensor([list(fashion_mnist.FASHION).index(name) for name in splits[0].class_names])
    print(f"{describe(evaluator.identity)}; {args.num} images of each run")
    print(f"{len(mine)} training images: Fréchet {frechet_distance(Moments.of(evaluator.features(mine)), moments):.3f}")
    for folder in args.runs:
        run = open_run(folder)
        labels = class_labels(run.config, args.num)
        images = generate(run, labels, SamplerConfig(20)).images.clamp(-1, 1)
        distance = frechet_distance(Moments.of(evaluator.features(images)), moments)
        right = (evaluator.logits(images).argmax(1) == known[labels]).double().mean()
        print(f"{folder}: Fréchet {distance:.3f}, accuracy {right:.3f}, copies {copies(images)['copying']:.3f}")


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(FewArgs, argv, "python examples/few_images.py")
    if args.runs:
        measure(args)
    elif (args.folder / "two").exists():
        raise ValueError(f"{args.folder / 'two'} is there already: name another folder, or the runs to be measured")
    else:
        write(args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
