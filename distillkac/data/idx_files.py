"""One IDX file: an array with its type and sizes in front of it, as MNIST's files are, plain or packed by gzip.

The header is two zero bytes, the type, the number of dimensions, and each of them as a big-endian uint32. What it promises is
compared with the size of the file before anything is read; of a packed file no more is unpacked than was promised.
"""

import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillkac.data.arrays import check_promise
from distillkac.data.classes import printable
from distillkac.data.listing import PACKED, is_image

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_DIMENSIONS = 4
GZIP = b"\x1f\x8b"
PART = 1 << 20  # bytes that are unpacked at once
# train-images-idx3-ubyte, train-images.idx3-ubyte: who calls a file so means one, even if its content is another.
NAMED = re.compile(r"[-._]idx[0-9][-._][a-z0-9]+$")
ANEW = "fetch it anew"


@dataclass(frozen=True)
class IdxFile:
    """A file whose header is sound. start: bytes of the header. packed: by gzip."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    packed: bool

    @property
    def name(self) -> str:
        return printable(str(self.path))


def is_idx(path: Path) -> bool:
    """Whether the content is that of an IDX file, or the name says so."""
    if is_image(path):
        return False
    if NAMED.search(plain_name(path)):
        return True
    try:
        with _opened(path) as (file, _):
            return _sound(file.read(4))
    except (OSError, EOFError, zlib.error):
        return False


def plain_name(path: Path) -> str:
    """The name in lower case, without the suffix of what it may be packed by."""
    name = path.name.casefold()
    return next((name.removesuffix(suffix) for suffix in PACKED if name.endswith(suffix)), name)


def open_idx(path: Path) -> IdxFile:
    """Raises ValueError naming a file that is no IDX file, is empty, or promises what it cannot hold."""
    where = printable(str(path))
    try:
        with _opened(path) as (file, packed):
            magic = file.read(4)
            if not _sound(magic):
                raise ValueError(_unsound(where, magic))
            dtype, dimensions = np.dtype(TYPES[magic[2]]), magic[3]
            sizes = file.read(4 * dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{where}: cannot be read ({error}); {ANEW}") from None
    if len(sizes) < 4 * dimensions:
        raise ValueError(f"{where}: is cut short in its header; {ANEW}")
    shape = struct.unpack(f">{dimensions}I", sizes)
    if 0 in shape:
        raise ValueError(f"{where}: is empty, its header says {_sizes(shape)}; {ANEW}")
    start, held = 4 + 4 * dimensions, path.stat().st_size
    promised = start + math.prod(shape) * dtype.itemsize
    if packed:
        check_promise(path, promised, held)
    elif held != promised:
        wrong = "is cut short" if held < promised else "goes on after its end"
        told = f"its header says {_sizes(shape)}, {promised} bytes in all, and it has {held}"
        raise ValueError(f"{where}: {wrong}: {told}; {ANEW}")
    return IdxFile(path, dtype, shape, start, packed)


def read_idx_file(found: IdxFile) -> np.ndarray:
    """The array, in fresh memory. Raises ValueError naming a file that is damaged, cut short or longer than promised."""
    data = np.empty(found.shape, found.dtype)
    content, got = data.reshape(-1).view(np.uint8), 0
    try:
        with _opened(found.path) as (file, _):
            file.read(found.start)
            while got < content.size and (count := file.readinto(content[got : got + PART].data)):
                got += count
            more = file.read(1)  # the checksum of what is packed stands after its last byte
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{found.name}: is damaged or cut short ({error}); {ANEW}") from None
    if got < content.size or more:
        wrong = "goes on after its end" if more else "is cut short"
        raise ValueError(f"{found.name}: {wrong}: its header says {_sizes(found.shape)}; {ANEW}")
    return data


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedIOBase, bool]]:
    """(the bytes of the IDX file, whether they are packed)."""
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked, True
        else:
            yield file, False


def _sound(magic: bytes) -> bool:
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in TYPES and 1 <= magic[3] <= MOST_DIMENSIONS


def _unsound(where: str, magic: bytes) -> str:
    shown, types = magic.hex(" ") or "nothing", ", ".join(f"{kind:02x}" for kind in TYPES)
    wanted = f"an IDX file begins with 00 00, a type of {types} and 1 to {MOST_DIMENSIONS} dimensions"
    if len(magic) == 4 and magic[:2] == b"\0\0":
        wrong = f"type {magic[2]:02x}" if magic[2] not in TYPES else f"{magic[3]} dimensions"
        return f"{where}: its header says {wrong} ({shown}), but {wanted}; {ANEW}"
    return (
        f"{where}: is called an IDX file but begins with {shown}, and {wanted}; {ANEW}, or unpack it if it is no gzip"
    )


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
