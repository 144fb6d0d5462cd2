"""The part of an image file that its pixels are in: without text, profiles and notes, which may be damaged or too large.

Pillow bounds how much text it takes with an image, and refuses the image beyond; its bounds are global and shared by all
threads, so they are left alone and it is shown a file without text instead.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PNG = b"\x89PNG\r\n\x1a\n"
# Transparency, palette, pixels, animation; eXIf says which way is up.
PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT", b"eXIf"}
JPEG = b"\xff\xd8"
# Application segments and comments. JFIF's (E0) and Adobe's (EE) say how colours are coded, Exif (E1) which way is up.
JPEG_NOTES = {*range(0xE2, 0xEE), 0xEF, 0xFE}
JPEG_SCAN = 0xDA


def pixels_only(source: Path | BinaryIO) -> BinaryIO | None:
    """The image file with its pixels alone; None for kinds of file in which they cannot be told from the rest.

    Never more than the file has. A file that is damaged elsewhere stays damaged.
    """
    with contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context(open(source, "rb")) if isinstance(source, Path) else source
            file.seek(0)
            start = file.read(len(PNG))
            parts = _png(file) if start == PNG else _jpeg(file) if start[:2] == JPEG else None
            return None if parts is None else io.BytesIO(b"".join(parts))
        except OSError:
            return None


def _png(file: BinaryIO) -> Iterator[bytes]:
    yield PNG
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in PNG_CHUNKS:
            chunk = file.read(length + 4)  # and its checksum
            if kind != b"eXIf" or struct.pack(">I", zlib.crc32(chunk[:-4], zlib.crc32(kind))) == chunk[-4:]:
                yield head + chunk
        else:
            file.seek(length + 4, 1)


def _jpeg(file: BinaryIO) -> Iterator[bytes]:
    file.seek(len(JPEG))
    yield JPEG
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        if head[1] == 0xFF:  # any number of these may stand before a marker
            file.seek(-3, 1)
            continue
        length = int.from_bytes(head[2:], "big")
        if head[1] == JPEG_SCAN or length < 2:
            yield head + file.read()
            return
        if head[1] in JPEG_NOTES:
            file.seek(length - 2, 1)
        else:
            yield head + file.read(length - 2)
