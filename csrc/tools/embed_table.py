"""Turn a file of little-endian float32 into comma-separated C++ literals, exact to the bit; used by the build.

    python embed_table.py IN.bin OUT.inc        then: inline constexpr float kTable[] = {
                                                          #include "OUT.inc"
                                                      };
Standard library only: it runs in whatever Python the build has.
"""

import argparse
import sys
from array import array
from pathlib import Path

PER_LINE = 8


def literals(content):
    """Lines of C++ float literals for the bytes of a float32 array; nine significant digits determine a float32.

    Raises ValueError if the bytes are not whole float32 or hold an infinity or NaN.
    """
    if len(content) % 4:
        raise ValueError(f"expected whole float32 values, got {len(content)} bytes")
    values = array("f", content)
    if sys.byteorder == "big":
        values.byteswap()
    words = [f"{v:.8e}f" for v in values]
    if any("n" in w for w in words):  # "inf" and "nan", which are no literals
        raise ValueError("the table holds an infinity or NaN")
    return "".join(",".join(words[i : i + PER_LINE]) + ",\n" for i in range(0, len(words), PER_LINE))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, metavar="IN", help="little-endian float32 file")
    parser.add_argument("output", type=Path, metavar="OUT", help="C++ include to write")
    arguments = parser.parse_args()
    try:
        text = literals(arguments.input.read_bytes())
    except ValueError as error:
        raise SystemExit(f"{arguments.input}: {error}") from error
    arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
