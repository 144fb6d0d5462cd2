"""Files that are written whole or not at all, JSON, and parts of a Markdown file between two marks.

Everything the package writes goes through `replacing`: a temporary name, fsync, rename.
"""

import contextlib
import errno
import glob
import json
import os
import secrets
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

MAX_JSON = 2**26  # bytes; no file of ours comes near, and one that does would only fill the memory
NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_told_of_fsync: set[int] = set()


def write_atomic(path: Path, content: bytes, shared: bool = False) -> None:
    """Replaces the file at `path` by `content`, see `replacing`."""
    with replacing(path, shared) as file:
        file.write(content)


def temporary(path: Path) -> Path:
    """Where the file at `path` is written, before it is renamed to that."""
    return path.with_name(f".{path.name}.tmp")


@contextlib.contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[BinaryIO]:
    """A new file that replaces the one at `path`: after a crash it holds the old bytes or the new ones, never a mix.

    shared: others may write the same file at the same time, each under a temporary name of its own; the last one stays, and
    what a killed one had begun lies beside it until somebody writes the file again after a day.

    Raises OSError saying that what was there is kept: no space, read-only, no permission.
    """
    written = temporary(path.with_name(f"{path.name}.{secrets.token_hex(4)}") if shared else path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One that a killed run left behind goes; "x" follows no link that somebody put there in its place.
        written.unlink(missing_ok=True)
        if shared:
            _remove_left(path)
        with open(written, "xb") as file:
            yield file
            flush_to_disk(file)
        os.replace(written, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise
    _flush_folder(path.parent)


def _remove_left(path: Path) -> None:
    """Removes what killed processes had begun of a shared file; what nobody has written to for a day."""
    for left in path.parent.glob(temporary(path.with_name(f"{glob.escape(path.name)}.*")).name):
        with contextlib.suppress(OSError):  # another one removes it
            if left.stat().st_mtime < time.time() - 24 * 3600:
                left.unlink()


def rename_folder(source: Path, target: Path) -> None:
    """Renames a folder to `target`, beside it, where there is nothing; on the disk when it returns."""
    os.rename(source, target)
    _flush_folder(target.parent)


def _flush_folder(path: Path) -> None:
    """A rename itself lives in the folder; some file systems cannot fsync a folder and need not."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def flush_to_disk(file: IO[Any]) -> None:
    """Waits until what was written is on the disk. Some file systems (in user space, of other systems) cannot say when: a
    crash of the machine, not of the process, may lose it there, and that is told once for each of them."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
        if (device := os.fstat(file.fileno()).st_dev) not in _told_of_fsync:
            _told_of_fsync.add(device)
            warnings.warn(
                f"the file system of {Path(file.name).absolute().parent} cannot say when a file is on the disk "
                f"({error.strerror}): a power cut may lose the newest checkpoint; choose a folder (--run, --out) on another",
                stacklevel=3,
            )


def unwritable(path: Path, error: OSError) -> OSError:
    """The error to raise where `path` could not be written."""
    reason = error.strerror or error
    return OSError(f"{path}: cannot be written ({reason}); what was there is kept. Make room or choose another folder")


def marked(page: Path, name: str) -> str:
    """The lines of a Markdown file between <!-- NAME:begin --> and <!-- NAME:end -->. Raises ValueError without them."""
    marks_of(page, [name])
    begin, end = _marks(name)
    return page.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]


def marks_of(page: Path, names: Iterable[str]) -> list[str]:
    """Which of the names the page has such marks of. Raises ValueError if of none."""
    content = page.read_text(encoding="utf-8") if page.is_file() else ""
    if found := [name for name in names if all(mark in content for mark in _marks(name))]:
        return found
    raise ValueError(
        f"{page} has no place for the result: put the lines <!-- NAME:begin --> and <!-- NAME:end --> into it, NAME one of "
        + ", ".join(names)
    )


def into_pages(pages: Iterable[Path], texts: dict[str, str]) -> None:
    """Replaces what is between the marks by the text of that name, in every page. Raises ValueError if a page has no marks."""
    for page in pages:
        for name in marks_of(page, texts):
            begin, end = _marks(name)
            before, _, rest = page.read_text(encoding="utf-8").partition(begin)
            after = rest.partition(end)[2]
            write_atomic(page, f"{before}{begin}{texts[name].rstrip()}\n{end}{after}".encode())


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"


def write_json(path: Path, value: object, shared: bool = False) -> None:
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode(), shared)


def as_json(value: object) -> Any:
    """The value as it would be read back: tuples become lists."""
    return json.loads(json.dumps(value))


def read_json(path: Path) -> Any:
    """Raises ValueError naming the file if it is missing or no JSON, OSError if it may not be read."""
    check_readable(path)
    try:
        check_ordinary(path)
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"{path.stat().st_size} bytes, more than {MAX_JSON}")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from None


def check_ordinary(path: Path) -> None:
    """Raises ValueError for a device or a pipe, which would be read for ever. Links are followed: caches of downloaded models
    are made of them."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no ordinary file")


def check_readable(path: Path) -> None:
    """Raises OSError for a file that is there and may not be read: libraries take it for a damaged one."""
    try:
        if path.is_file():
            path.open("rb").close()
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror or error}): ask for permission, or copy it") from None
