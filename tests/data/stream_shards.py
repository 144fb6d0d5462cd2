"""Shards of a stream for tests of data."""

import torch

from distillkac.data import DataConfig
from tests.image_sets import pixels, samples, table

COUNT = 23  # images to learn from, in shards of 9, 7 and 7
TRUTH = torch.from_numpy(pixels(30)).permute(0, 3, 1, 2)


def mixed():
    """`samples` with the classes in turn."""
    return [(name, content, i % 2) for i, (name, content, _) in enumerate(samples(30))]


def write_shards(root, made=None, sizes=(9, 7, 7), test=7):
    made, first = mixed() if made is None else made, 0
    root.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        table(made[first : first + size]).to_parquet(root / f"train-{number:05d}-of-{len(sizes):05d}.parquet")
        first += size
    if test:
        table(made[first : first + test]).to_parquet(root / "test-00000-of-00001.parquet")
    return root


def settings(path, tmp_path, cache="cache", **options):
    return DataConfig(
        path=str(path),
        cache=str(tmp_path / cache),
        **{"streaming": True, "shuffle_buffer": 5, "eval_images": 4} | options,
    )


def which(x):
    """The numbers of the images."""
    return [int((image == TRUTH).flatten(1).all(1).nonzero()) for image in x]
