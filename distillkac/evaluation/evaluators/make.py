"""Trains the classifiers of the built-in images again: `python -m distillkac.evaluation.evaluators.make`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from distillkac.base import files
from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.data import DataConfig, load
from distillkac.data.builtin import BUILTIN
from distillkac.evaluation import classifier, evaluators


@dataclass(frozen=True)
class MakeArgs:
    """Trains a classifier for each set of built-in images and writes it, with index.json, for distillkac to ship."""

    out: Path = evaluators.FOLDER
    """Where they go; by default into the package that runs."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(MakeArgs, argv, "python -m distillkac.evaluation.evaluators.make")
    index = {}
    for name in BUILTIN:
        train, test = (load(DataConfig(builtin=name), split) for split in ("train", "test"))
        fingerprint = classifier.fingerprint_of(train, test)
        made = classifier.fresh(train, test, fingerprint)
        content = classifier.to_bytes(made, fingerprint)
        files.write_atomic(args.out / f"{name}.safetensors", content)
        index[name] = {
            "digest": made.digest,
            "fingerprint": fingerprint,
            "accuracy": made.accuracy,
            "data": evaluators.describe(train, test),
            "made_with": f"torch {torch.__version__}, {os.uname().machine}",
        }
        print(
            f"{name}: {made.digest}, {made.accuracy:.2%} of the held-out images right, {len(content)} bytes", flush=True
        )
    files.write_json(args.out / evaluators.INDEX, index)
    return 0


if __name__ == "__main__":
    sys.exit(main())
