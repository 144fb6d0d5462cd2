"""What is worth keeping between runs: where an archive's images lie, that all images of a large set can be read."""

import hashlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from distillkac import checkpoints
from distillkac.data.fingerprint import encode


def folder(config) -> Path:
    if config.cache is not None:
        return Path(config.cache).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distillkac"


def digest(words: Iterable[str]) -> str:
    """A name for these words; names of files among them need not be UTF-8."""
    return hashlib.blake2b(encode("\0".join(words)), digest_size=16).hexdigest()


def recall(config, *words: str) -> tuple[Path, dict | None]:
    """(file, content): what was remembered under exactly these words; None if nothing was, or if it is damaged."""
    path = folder(config) / f"{digest(words)}.json"
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
        warnings.warn(f"{path}: cannot be written ({error}); the next run looks at the images again", stacklevel=2)
