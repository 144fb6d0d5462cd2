"""Samples on their way to the disk, batch by batch: a sampling that was stopped goes on, and holds one batch in memory.

What a sampling is (weights, sampler, seed, classes) is kept beside its images in `.sampling.json`: in the folder of single
PNGs; for one file in `.FILE.partial`, a folder that is there while the file is not complete. Images of another sampling are
never taken for some of this one.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from distillkac.base import files
from distillkac.base.outputs import check_folder
from distillkac.runs import checkpoints, class_names, lock, pictures
from distillkac.runs.sampling import Drawing

RECORD, PIXELS = ".sampling.json", "pixels.raw"
PNG_END = b"IEND\xaeB`\x82"
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")


def described(drawing: Drawing, classes: tuple[str, ...]) -> dict:
    """What decides the pixels of image i, and nothing else: two samplings with the same description can be mixed."""
    run, sampler = drawing.run, drawing.sampler
    with open(run.folder / checkpoints.EMA, "rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    space = run.config.latent
    facts = {
        "weights": weights[:32],
        "noise": asdict(run.config.noise),
        "autoencoder": None if space is None else space.weights[:32],
        "steps": sampler.steps,
        "integrator": drawing.method,
        "times": hashlib.sha256(drawing.grid.numpy().tobytes()).hexdigest()[:16],
        "w": drawing.velocity.w,
        "interval": sampler.interval,
        "max_speed": sampler.max_speed,
        "restart": drawing.restart,
        # None where they are not asked for, as in records of before they could be
        "gamma": drawing.gamma,
        "launch": sampler.launch or None,
        "landing": sampler.landing or None,
        "seed": drawing.seed,
        "classes": classes,
    }
    return files.as_json(facts)


def claim(folder: Path, facts: dict, out: Path, held: contextlib.ExitStack) -> bool:
    """Takes the folder for the sampling `facts`, until `held` is closed; whether it has begun there before.

    Raises ValueError if another sampling has, naming what differs, or another process is at it now.
    """
    if (problem := lock.take(folder, held, "images are being sampled to")) is not None:
        raise ValueError(problem)
    held.callback((folder / lock.LOCK).unlink, missing_ok=True)
    path = folder / RECORD
    if not path.exists():
        return False
    before = files.read_json(path)
    before = before if isinstance(before, dict) else {}
    for name in facts:
        if before.get(name) != facts[name]:
            raise ValueError(
                f"{out} holds images of another sampling, with {name} = {before.get(name)}, now {facts[name]}: choose "
                f"another --out, or remove {folder}"
            )
    return True


class SinglePngs:
    """OUT/00012-class-dog.png, ...: images that are there are kept."""

    goes_on = True  # after an interruption

    def __init__(self, out: Path, facts: dict, names: tuple[str, ...], label: Callable[[int], int], num: int):
        """label: the class of image i. Raises ValueError if the folder holds other images."""
        self.out, self.words, self.label, self.num = out, class_names.file_names(names), label, num
        self.held = contextlib.ExitStack()
        try:
            begun = claim(out, facts, out, self.held)
            self._refuse_others(begun)
            files.write_json(out / RECORD, facts | {"num": num})
        except BaseException:
            self.held.close()
            raise

    def name(self, i: int) -> str:
        return f"{i:05d}-class-{self.words[self.label(i)]}.png"

    def path(self, i: int) -> str:
        # Not a Path: Python interns every part of one, in a table that grows with their number.
        return os.path.join(self.out, self.name(i))

    def has(self, first: int, last: int) -> bool:
        """Whether images first .. last - 1 are all there, and whole."""
        return all(_is_png(self.path(i)) for i in range(first, last))

    def put(self, first: int, pixels: np.ndarray) -> None:
        """Writes (n, H, W, C) uint8 as the images first, first + 1, ..."""
        for i, image in enumerate(pixels, first):
            pictures.save_png(pictures.to_pil(image), self.path(i))

    def finish(self) -> None:
        """Nothing is left to do: every image is a file."""

    def _refuse_others(self, begun: bool) -> None:
        count, example, beyond = 0, None, -1
        with os.scandir(self.out) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.lower().endswith(PICTURES):
                    continue
                number = re.match(r"([0-9]{5,18})-class-", entry.name)
                index = -1 if number is None else int(number[1])
                if not begun or index < 0 or entry.name != self.name(index):
                    count, example = count + 1, min(entry.name, example or entry.name)
                elif index >= self.num:
                    beyond = max(beyond, index)
        if beyond >= 0 and not count:
            raise ValueError(
                f"{self.out} holds {beyond + 1} images of this sampling already, more than --num {self.num}: give at least as "
                "many, or choose another folder"
            )
        if count:
            raise ValueError(
                f"{self.out} holds {count} images of another sampling, such as {example}, which would be taken for some of "
                "this one: choose another folder, or empty it"
            )


def _is_png(path: str) -> bool:
    """Whether a file ends as a PNG does: a disk that was full, or lost its power, may have left less."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except OSError:  # there is none, or it is shorter than that
        return False


class OneFile:
    """A file made of all images, by `finish`; until then they lie in .FILE.partial, unless one batch is all of them."""

    def __init__(self, out: Path, facts: dict, shape: tuple[int, ...], num: int, rows: int, assemble: Callable):
        """shape: of the pixels of one image, uint8. rows: of a batch. assemble(pixels (num, *shape)) writes `out`."""
        self.shape, self.num, self.rows, self.assemble = shape, num, rows, assemble
        self.done, self.held = 0, contextlib.ExitStack()
        self.small: list[np.ndarray] = []
        self.folder = None if num <= rows else out.with_name(f".{out.name}.partial")
        self.goes_on = self.folder is not None
        if self.folder is None:
            return
        check_folder(self.folder)
        try:
            begun = claim(self.folder, facts, out, self.held)
            if not begun:
                (self.folder / PIXELS).unlink(missing_ok=True)
                files.write_json(self.folder / RECORD, facts)
            self.file = self.held.enter_context((self.folder / PIXELS).open("ab"))
            whole = self.file.tell() // (rows * self._size())
            # What a system wrote last before it died may be length without content.
            self.done = min(max(whole - 1, 0) * rows, num)
            self.file.truncate(self.done * self._size())
        except BaseException:
            self.held.close()
            raise

    def has(self, first: int, last: int) -> bool:
        """Whether images first .. last - 1 are all there."""
        return last <= self.done

    def put(self, first: int, pixels: np.ndarray) -> None:
        """Keeps the images first, first + 1, ...; they come in order."""
        if self.folder is None:
            self.small.append(pixels)
            return
        self.file.write(np.ascontiguousarray(pixels).tobytes())
        self.file.flush()

    def finish(self) -> None:
        """Writes the file, and removes what was kept for it."""
        if self.folder is None:
            self.assemble(np.concatenate(self.small))
            return
        self.assemble(np.memmap(self.folder / PIXELS, np.uint8, "r", shape=(self.num, *self.shape)))
        self.held.close()
        shutil.rmtree(self.folder)

    def _size(self) -> int:
        return int(np.prod(self.shape))


def write_npz(out: Path, pixels: np.ndarray, labels: Callable[[int, int], np.ndarray], names: tuple[str, ...]) -> None:
    """Arrays images (num, H, W, C) uint8, labels (num,) int64, the places of the classes, and class_names.

    labels(first, last): of these images. Written piece by piece.
    """
    step = max(1, min(1024, 2**22 // pixels[:1].size))  # images at a time
    pieces = range(0, len(pixels), step)
    with files.replacing(out) as file, zipfile.ZipFile(file, "w") as archive:
        _member(archive, "images", pixels.shape, pixels.dtype, (pixels[i : i + step] for i in pieces))
        parts = (labels(i, min(i + step, len(pixels))) for i in pieces)
        _member(archive, "labels", (len(pixels),), np.dtype(np.int64), parts)
        listed = np.array(names)
        _member(archive, "class_names", listed.shape, listed.dtype, [listed])


def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype, parts) -> None:
    head = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(head, header)
    entry = zipfile.ZipInfo(f"{name}.npy")  # without today's date: the same samples are the same bytes
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as member:
        member.write(head.getvalue())
        for part in parts:
            member.write(np.ascontiguousarray(part).tobytes())
