"""Trains the shipped classifiers again, and measures the moments of their data: `python -m
distillkac.evaluation.evaluators.make`, or `... make digits` for one."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from distillkac.base import files
from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.data import DataConfig, load
from distillkac.data.builtin import BUILTIN
from distillkac.evaluation import classifier, evaluators, moments
from distillkac.runs.presets import PRESETS

SETS = {name: DataConfig(builtin=name) for name in BUILTIN} | {"fashion": PRESETS["fashion"].data}


@dataclass(frozen=True)
class MakeArgs:
    """Trains a classifier for each set of images and writes it, with index.json, for distillkac to ship."""

    sets: tyro.conf.Positional[tuple[str, ...]] = tuple(SETS)
    """Which; the others stay as they are. fashion, a quarter of an hour, is read where Debian's package
    dataset-fashion-mnist puts it."""
    out: Path = evaluators.FOLDER
    """Where they go; by default into the package that runs."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(MakeArgs, argv, "python -m distillkac.evaluation.evaluators.make")
    if unknown := [name for name in args.sets if name not in SETS]:
        raise ValueError(f"there is no set {unknown[0]}; the sets are {', '.join(SETS)}")
    path = args.out / evaluators.INDEX
    index = files.read_json(path) if path.exists() else {}
    for name in args.sets:
        train, test = (load(SETS[name], split) for split in ("train", "test"))
        fingerprint = classifier.fingerprint_of(train, test)
        made = classifier.fresh(train, test, fingerprint)
        files.write_atomic(args.out / f"{name}.safetensors", classifier.to_bytes(made, fingerprint))
        found = moments.SplitMoments.measured(made.network, train, test)
        files.write_atomic(args.out / f"{name}.moments.safetensors", moments.to_bytes(found, made.digest))
        index[name] = {
            "digest": made.digest,
            "moments": classifier.digest_of(made.digest, found.tensors()),
            "fingerprint": fingerprint,
            "accuracy": made.accuracy,
            "data": evaluators.describe(train, test),
            "made_with": f"torch {torch.__version__}, {os.uname().machine}",
        }
        print(f"{name}: {made.digest}, {made.accuracy:.2%} of the held-out images right", flush=True)
        files.write_json(path, {name: index[name] for name in SETS if name in index})
    return 0


if __name__ == "__main__":
    sys.exit(main())
