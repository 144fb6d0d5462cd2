"""Checkpoints that are kept beside the last one, the best among them, and what a killed run leaves behind."""

import contextlib
from pathlib import Path

from distillkac.base import files
from distillkac.runs import checkpoints

KEPT, BEST, AVERAGES = "checkpoints", "best", "averages"
# In the order they are written: the last one makes it a run folder.
FILES = (checkpoints.STATE, checkpoints.MODEL, checkpoints.EMA, checkpoints.CONFIG)
CURVES, SAMPLES = "curves.png", "samples"  # the pictures of a training


def keep(folder: Path, step: int, count: int) -> None:
    """Keeps the checkpoint of `step`, which the folder holds whole, as a run folder FOLDER/checkpoints/step-N, and removes
    all but the last `count` of these. With a count of 1 the folder itself is the only one, and nothing is done.

    Of a folder that is removed only our files go: what was sampled or measured there stays.
    """
    if count == 1:
        return
    place = folder / KEPT / f"step-{step:06d}"
    if not (place / checkpoints.CONFIG).exists():
        for name in FILES:
            files.write_atomic(place / name, (folder / name).read_bytes())
    for old in kept(folder)[:-count]:
        for name in reversed(FILES):
            (old / name).unlink(missing_ok=True)
        for empty in (old / checkpoints.STATE.parent, old):
            with contextlib.suppress(OSError):
                empty.rmdir()


def keep_best(folder: Path) -> None:
    """Makes RUN/best the checkpoint that the folder holds whole, a run folder: in the place of another best one, of which the
    config goes first, so that the files of two are never taken for one."""
    place = folder / BEST
    (place / checkpoints.CONFIG).unlink(missing_ok=True)
    for name in FILES:
        files.write_atomic(place / name, (folder / name).read_bytes())


def kept(folder: Path) -> list[Path]:
    """The run folders that `keep` made, the first step first, and what is left of those that it removed."""
    return sorted((folder / KEPT).glob("step-*"), key=lambda path: (len(path.name), path.name))


def keeper(folder: Path) -> Path | None:
    """The run that keeps this folder as a checkpoint, and removes or replaces it in its time; None if it is no such folder."""
    place = folder.resolve()
    inside = place.parent.name == KEPT and place.name.startswith("step-")
    run = place.parent.parent if inside else place.parent
    return run if (inside or place.name == BEST) and (run / checkpoints.CONFIG).exists() else None


def clean(folder: Path) -> None:
    """Removes the half-written files of a run that was killed, and no others: hidden files may be the user's.

    Only for the process that holds the folder's lock.
    """
    names = [*map(str, FILES), checkpoints.METRICS, CURVES, f"{SAMPLES}/step-*.png", f"{AVERAGES}/step-*.safetensors"]
    for run in (folder, folder / BEST, *kept(folder)):
        for path in map(run.joinpath, names):
            for left in path.parent.glob(files.temporary(path).name):
                left.unlink()
