"""Arrays in a .mat file of MATLAB 5 to 7.2, which other readers fill the memory for before they know that it is sound.

A file is a header of 128 bytes and elements: a tag (type, bytes) and the content, which for an array is elements again: flags,
sizes, name, numbers. An element may be packed by zlib; of what is packed no more is unpacked than the sizes of the array say.
"""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from distillkac.data.arrays import check_promise
from distillkac.data.classes import printable

HEADER, TAG = 128, 8
PACKED, ARRAY, INT32, UINT32, INT8 = 15, 14, 5, 6, 1
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES = range(6, 16)  # double to uint64; below them are cells, structures, objects, text and sparse arrays
COMPLEX = 0x800
MOST_DIMENSIONS, MOST_NAME, PART = 8, 1024, 1 << 20


class Reading(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Unpacked:
    """The bytes of a packed element, unpacked as they are asked for."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.left, self.unpacker, self.packed = file, size, zlib.decompressobj(), b""

    def read(self, size: int, /) -> bytes:
        made = b""
        while len(made) < size and not self.unpacker.eof:
            if not self.packed:
                self.packed = self.file.read(min(self.left, PART))
                self.left -= len(self.packed)
                if not self.packed:
                    break
            made += self.unpacker.decompress(self.packed, size - len(made))
            self.packed = self.unpacker.unconsumed_tail
        return made


@dataclass(frozen=True)
class _Matrix:
    """What stands before the numbers of an array."""

    name: str
    shape: tuple[int, ...]
    numeric: bool


def read_mat(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the arrays `names` that the file has; numbers as they are stored. Raises ValueError naming the file."""
    where, size = printable(str(path)), path.stat().st_size
    found: dict[str, np.ndarray] = {}
    try:
        with open(path, "rb") as file:
            order = _check_header(file.read(HEADER))
            place = HEADER
            while place + TAG <= size:
                file.seek(place)
                kind, length = (int(n) for n in np.frombuffer(file.read(TAG), f"{order}u4"))
                place += TAG + length
                if place > size:
                    raise ValueError("it is cut short")
                content: Reading = file
                if packed := kind == PACKED:
                    content = _Unpacked(file, length)
                    kind, _ = _tag(content, order)
                if kind != ARRAY:
                    continue
                matrix = _read_matrix(content, order)
                if matrix.name in names:
                    if matrix.name in found:
                        raise ValueError(f"it has {matrix.name} twice")
                    found[matrix.name] = _read_numbers(path, content, order, matrix, length, packed)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: cannot be read as a .mat file ({printable(str(error))}); fetch it anew") from None
    return found


def _check_header(header: bytes) -> str:
    """ "<" or ">", the order of its bytes."""
    if header.startswith(b"MATLAB 7.3"):
        raise ValueError("it is one of MATLAB 7.3, an HDF5 file; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    if len(header) < HEADER or not header.startswith(b"MATLAB 5.0 MAT-file") or order is None:
        raise ValueError("it does not begin with MATLAB 5.0 MAT-file")
    return order


def _tag(source: Reading, order: str) -> tuple[int, int]:
    kind, length = np.frombuffer(_exactly(source, TAG), f"{order}u4")
    return int(kind), int(length)


def _exactly(source: Reading, size: int) -> bytes:
    content = source.read(size)
    if len(content) < size:
        raise EOFError("it is cut short")
    return content


def _small(source: Reading, order: str, kinds: set[int], most: int) -> tuple[int, bytes]:
    """(type, content) of an element that may not be longer than `most` bytes. Four bytes or fewer may stand in its tag."""
    tag = _exactly(source, TAG)
    kind, length = (int(n) for n in np.frombuffer(tag, f"{order}u4"))
    if kind >> 16:
        kind, length = kind & 0xFFFF, kind >> 16
        content = tag[4 : 4 + length]
        padding = 0
    else:
        content, padding = b"", -length % 8
    if kind not in kinds or length > most:
        raise ValueError(f"an element of type {kind} has {length} bytes where it may not")
    if not content and length:
        content = _exactly(source, length + padding)[:length]
    return kind, content


def _read_matrix(source: Reading, order: str) -> _Matrix:
    flags = int(np.frombuffer(_small(source, order, {UINT32}, 8)[1], f"{order}u4")[0])
    sizes = np.frombuffer(_small(source, order, {INT32}, 4 * MOST_DIMENSIONS)[1], f"{order}i4")
    name = _small(source, order, {INT8}, MOST_NAME)[1].decode("latin-1")
    if (sizes < 0).any() or len(sizes) < 2:
        raise ValueError(f"the sizes of {name} are {sizes.tolist()}")
    return _Matrix(name, tuple(sizes.tolist()), (flags & 0xFF) in NUMERIC_CLASSES and not flags & COMPLEX)


def _read_numbers(path: Path, source: Reading, order: str, matrix: _Matrix, held: int, packed: bool) -> np.ndarray:
    """The numbers, in fresh memory, after their sizes were compared with the `held` bytes of the element."""
    if not matrix.numeric:
        raise ValueError(f"{matrix.name} is no array of plain numbers")
    count = math.prod(matrix.shape)
    tag = _exactly(source, TAG)
    kind, length = (int(n) for n in np.frombuffer(tag, f"{order}u4"))
    if inside := min(kind >> 16, 4):  # bytes that stand in the tag itself
        kind, length = kind & 0xFFFF, inside
    if kind not in NUMBERS:
        raise ValueError(f"{matrix.name} has numbers of type {kind}")
    dtype = np.dtype(f"{order}{NUMBERS[kind]}")
    if length != count * dtype.itemsize:
        raise ValueError(f"{matrix.name} should be {' x '.join(map(str, matrix.shape))} but has {length} bytes")
    if not packed and length > held:
        raise EOFError("it is cut short")
    check_promise(path, length, held)
    data = np.empty(count, dtype)
    content = data.view(np.uint8)
    content[:inside] = np.frombuffer(tag[4 : 4 + inside], np.uint8)
    for start in range(inside, length, PART):
        part = _exactly(source, min(PART, length - start))
        content[start : start + len(part)] = np.frombuffer(part, np.uint8)
    return data.reshape(matrix.shape, order="F")
