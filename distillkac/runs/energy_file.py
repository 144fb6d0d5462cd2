"""The kinetic energies of sampled paths in a file of their own, beside the images: `sample --energy FILE.csv`."""

import contextlib
import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch

from distillkac.base import files
from distillkac.base.outputs import check_file

HEADER = "image,class,energy"


class EnergyFile:
    """Lines image, class, energy. What is there already of the same sampling is kept; what a crash lost is drawn again.

    The first line is a comment with the digest of the sampling, so that energies of another are never taken for some of this.
    """

    def __init__(self, out: Path, facts: dict, label: Callable[[int], str]):
        """facts: what decides image i, as `sample_files.described` tells it. label: the name of its class. Raises ValueError if
        `out` is no .csv, cannot be written, or is a file of something else."""
        if out.suffix.lower() != ".csv":
            raise ValueError(f"energies are written as a table: --energy must end in .csv, got {out}")
        check_file(out)
        self.out, self.label = out, label
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        self.first = f"# distillkac energies of sampling {digest}"
        self.values: dict[int, float] = {}
        if out.exists():
            self._read()

    def _read(self) -> None:
        text = self.out.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        if lines[:2] != [self.first, HEADER]:
            raise ValueError(f"{self.out} holds no energies of this sampling: choose another file, or remove it")
        for row in csv.reader(lines[2:-1]):  # what comes after the last end of a line was not written whole
            with contextlib.suppress(ValueError, IndexError):
                self.values[int(row[0])] = float(row[2])

    def has(self, first: int, last: int) -> bool:
        """Whether the energies of images first .. last - 1 are all there."""
        return all(i in self.values for i in range(first, last))

    def put(self, first: int, energy: torch.Tensor) -> None:
        """Keeps those of the images first, first + 1, ...: (n,)."""
        self.values |= dict(enumerate(energy.tolist(), first))

    def write(self) -> None:
        """Writes the file, with a line for each image that is known, in order."""
        with files.replacing(self.out) as file:
            file.write(f"{self.first}\n{HEADER}\n".encode())
            for i in sorted(self.values):
                name = self.label(i)
                quoted = '"' + name.replace('"', '""') + '"' if any(c in name for c in ',"\n') else name
                file.write(f"{i},{quoted},{self.values[i]:.9g}\n".encode())
