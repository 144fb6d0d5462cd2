"""What is worth keeping between runs: where an archive's images lie, that all images of a large set can be read."""

import functools
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

from distillkac.base import files
from distillkac.base.paths import encode
from distillkac.data.classes import printable

NOWHERE = Path(os.devnull) / "distillkac"
"""Where a user without a home folder keeps things: what is looked for is not there, and writing fails with a warning."""
DIGEST = "digest"  # of all else in a file, by which one that is damaged or was edited is told


def folder(config) -> Path:
    if config.cache is not None:
        return Path(config.cache).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distillkac"
    except RuntimeError:  # HOME is not set, and the system does not know this user, as in many containers
        return NOWHERE


def downloads(config) -> Path:
    """The folder of Hugging Face's data sets: --data.cache, or the library's own."""
    if config.cache is not None:
        return Path(config.cache).expanduser()
    # As the library finds it, but for a home that it does not find: it would make a folder called "~" here.
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    usual = Path(os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets"))
    try:
        return usual.expanduser()
    except RuntimeError:
        return NOWHERE


def writable(folder: Path) -> Path:
    """The folder, made if it is not there; or one for this process alone, with a warning, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = "there is no home folder" if folder == NOWHERE else error.strerror or error
        warnings.warn(
            printable(
                f"{folder}: cannot be written ({reason}), so what is fetched or converted now is made again by the next "
                "run; --data.cache FOLDER keeps it"
            ),
            stacklevel=2,
        )
        return own()


def own() -> Path:
    """A folder of this process alone, gone when it ends."""
    return Path(_for_this_process().name)


@functools.cache
def _for_this_process() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="distillkac-")


def digest(words: Iterable[str]) -> str:
    """A name for these words; names of files among them need not be UTF-8."""
    return hashlib.blake2b(encode("\0".join(words)), digest_size=16).hexdigest()


def recall(config, *words: str) -> tuple[Path, dict | None]:
    """(file, content): what was remembered under exactly these words; None if nothing was, or if it is damaged, changed or not
    ours to read."""
    path = folder(config) / f"{digest(words)}.json"
    try:
        content = files.read_json(path)
    except (ValueError, OSError):
        return path, None
    whole = isinstance(content, dict) and content.pop(DIGEST, None) == _digest_of(content)
    return path, content if whole else None


def remember(path: Path, content: dict) -> None:
    """Warns if it cannot: the run goes on, and the next one does the work again."""
    try:
        # All processes of a run may come here at once.
        files.write_json(path, content | {DIGEST: _digest_of(content)}, shared=True)
    except OSError as error:
        reason = "there is no home folder" if path.parent == NOWHERE else error.__cause__
        # Of the folder, not of the file: one warning for all archives of a set.
        warnings.warn(
            f"{path.parent}: cannot be written ({reason}), so the next run looks at all images again; --data.cache FOLDER "
            "keeps what was found",
            stacklevel=2,
        )


def _digest_of(content: dict) -> str:
    return digest([json.dumps(content)])
