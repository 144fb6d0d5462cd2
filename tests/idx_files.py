"""IDX files as the sets of MNIST's kind come, for tests."""

import gzip
import struct
from pathlib import Path

import numpy as np

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array: np.ndarray, code: int | None = None, shape: tuple[int, ...] | None = None) -> bytes:
    """The array as an IDX file; with another type or other sizes in its header, if they are given."""
    shape = array.shape if shape is None else shape
    code = CODES[array.dtype.str[1:]] if code is None else code
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_set(
    folder: Path, images: np.ndarray, labels: np.ndarray, names: str = "train-{}-idx{}-ubyte", packed: bool = True
) -> Path:
    """Images (N, H, W) and labels (N,) or (N, 8) of one split; names: of both files, with what they hold and dimensions."""
    folder.mkdir(parents=True, exist_ok=True)
    for what, array in (("images", images), ("labels", labels)):
        name, content = names.format(what, array.ndim), idx(array)
        if array.dtype.str[1:] == "i4":
            name = name.replace("ubyte", "int")
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(content, 1) if packed else content)
    return folder
