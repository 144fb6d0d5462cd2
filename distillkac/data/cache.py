"""What is worth keeping between runs: where an archive's images lie, that all images of a large set can be read."""

import functools
import hashlib
import os
import tempfile
import warnings
from pathlib import Path

from distillkac import checkpoints

NOWHERE = Path(os.devnull) / "distillkac"
"""Where a user without a home folder keeps things: what is looked for is not there, and writing fails with a warning."""


def folder(config) -> Path:
    if config.cache is not None:
        return Path(config.cache).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distillkac"
    except RuntimeError:  # HOME is not set, and the system does not know this user, as in many containers
        return NOWHERE


def downloads(config) -> str | None:
    """The folder of Hugging Face's data sets: --data.cache, or None for the library's own.

    Where that cannot be written: one for this process alone, with a warning.
    """
    if config.cache is not None:
        return str(Path(config.cache).expanduser())
    # As the library finds it, but for a home that it does not find: it would make a folder called "~" here.
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    usual = Path(os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets"))
    try:
        usual = usual.expanduser()
        usual.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=usual).close()
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"{usual}: cannot be written ({getattr(error, 'strerror', None) or error}), so what is fetched now is fetched "
            "again by the next run; --data.cache FOLDER keeps it",
            stacklevel=2,
        )
        return _for_this_process().name
    return None


@functools.cache
def _for_this_process() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="distillkac-")


def recall(config, *words: str) -> tuple[Path, dict | None]:
    """(file, content): what was remembered under exactly these words; None if nothing was, or if it is damaged."""
    path = folder(config) / f"{hashlib.blake2b(chr(0).join(words).encode(), digest_size=16).hexdigest()}.json"
    try:
        content = checkpoints.read_json(path)
    except ValueError:
        return path, None
    return path, content if isinstance(content, dict) else None


def remember(path: Path, content: dict) -> None:
    """Warns if it cannot: the run goes on, and the next one does the work again."""
    # A name of its own for each process, because all processes of a run may come here at once.
    temporary = path.with_name(f"{path.stem}.{os.getpid()}")
    try:
        checkpoints.write_json(temporary, content)
        os.replace(temporary, path)
    except OSError as error:
        reason = "there is no home folder" if path.parent == NOWHERE else error
        # Of the folder, not of the file: one warning for all archives of a set.
        warnings.warn(
            f"{path.parent}: cannot be written ({reason}), so the next run looks at all images again; --data.cache FOLDER "
            "keeps what was found",
            stacklevel=2,
        )
