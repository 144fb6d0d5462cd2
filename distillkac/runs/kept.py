"""Checkpoints that are kept beside the last one, the best among them, and what a killed run leaves behind."""

import contextlib
import re
from pathlib import Path

from distillkac.base import files
from distillkac.runs import checkpoints

KEPT, BEST, AVERAGES = "checkpoints", "best", "averages"
NEW, OLD = f".{BEST}.tmp", f".{BEST}.old"  # the best checkpoint while it is written, and the one that it replaces
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
        _remove(old)


def keep_best(folder: Path) -> None:
    """Makes RUN/best the checkpoint that the folder holds whole, a run folder. Written beside it and renamed, so that a crash
    leaves the best one of before or this one; what was sampled or measured in that of before stays there."""
    made = folder / NEW
    _remove(made)
    try:
        for name in FILES:
            files.write_atomic(made / name, (folder / name).read_bytes())
    except BaseException:
        _remove(made)
        raise
    _put_in_place(folder)


def best_step(folder: Path) -> int | None:
    """Of which step RUN/best is; None if it is not there, or damaged."""
    if (folder / BEST / checkpoints.CONFIG).exists():
        with contextlib.suppress(ValueError):
            found = checkpoints.described(folder / BEST)
            return None if found is None else found[0]
    return None


def finish_best(folder: Path) -> None:
    """Ends what a `keep_best` that was killed had begun: one that was written whole becomes RUN/best, any other goes."""
    if (folder / NEW / checkpoints.CONFIG).exists():
        _put_in_place(folder)
    _remove(folder / NEW)
    if (folder / OLD).is_dir():
        _put_in_place(folder)


def _put_in_place(folder: Path) -> None:
    """RUN/.best.tmp, if it is there, becomes RUN/best, and what is left of the one before goes into that. May be killed and
    called again at any point."""
    best, old, made = folder / BEST, folder / OLD, folder / NEW
    if best.exists() and made.exists() and not old.exists():
        files.rename_folder(best, old)
    if not best.exists():
        files.rename_folder(made if made.exists() else old, best)
    if old.exists():
        _remove(old, into=best)


def _remove(place: Path, into: Path | None = None) -> None:
    """Removes the files of ours in a folder, the config first, and the folder, if nothing else is in it. into: where anything
    else goes."""
    for name in reversed(FILES):
        (place / name).unlink(missing_ok=True)
        files.temporary(place / name).unlink(missing_ok=True)
    if into is not None:
        _move(place, into)
    for empty in (place / checkpoints.STATE.parent, place):
        with contextlib.suppress(OSError):
            empty.rmdir()


def _move(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and place.is_dir():
            _move(entry, place)
            entry.rmdir()
        else:
            entry.replace(place)


def kept(folder: Path) -> list[Path]:
    """The run folders that `keep` made, the first step first, and what is left of those that it removed."""
    return sorted((folder / KEPT).glob("step-*"), key=lambda path: (len(path.name), path.name))


def drop_later(folder: Path, step: int) -> list[str]:
    """Removes the checkpoints that `keep` made after `step`, where a training goes on from there: they would be taken for its
    own. Returns their names."""
    runs = [path for path in kept(folder) if (path / checkpoints.CONFIG).exists()]
    later = [path for path in runs if (match := re.fullmatch(r"step-(\d+)", path.name)) and int(match[1]) > step]
    for path in later:
        _remove(path)
    return [path.name for path in later]


def keeper(folder: Path) -> Path | None:
    """The run that keeps this folder as a checkpoint, and removes or replaces it in its time; None if it is no such folder."""
    place = folder.resolve()
    inside = place.parent.name == KEPT and place.name.startswith("step-")
    run = place.parent.parent if inside else place.parent
    return run if (inside or place.name == BEST) and (run / checkpoints.CONFIG).exists() else None


def clean(folder: Path) -> None:
    """Removes the half-written files of a run that was killed, and no others: hidden files may be the user's. Ends a
    `keep_best` that was killed.

    Only for the process that holds the folder's lock.
    """
    finish_best(folder)
    names = [*map(str, FILES), checkpoints.METRICS, CURVES, f"{SAMPLES}/step-*.png", f"{AVERAGES}/step-*.safetensors"]
    for run in (folder, folder / BEST, *kept(folder)):
        for path in map(run.joinpath, names):
            for left in path.parent.glob(files.temporary(path).name):
                left.unlink()
