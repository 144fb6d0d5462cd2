"""A hash of the kernel sources, so that a build which no longer matches them is noticed.

Imports nothing of the package: CMake runs this file to stamp the binary, `distillkac` reads it to compare.
`python distillkac/_sources.py OUT [PROBLEM]` writes the C++ header with hash, commit and why there are no CUDA kernels.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {".h", ".cpp", ".cu", ".cuh", ".bin"}


def source_hash(root: Path = ROOT) -> str | None:
    """First 16 hex digits of the SHA-256 of all that is compiled; None where the sources are not (an installed wheel)."""
    csrc = root / "csrc"
    if not csrc.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted([*csrc.rglob("*"), root / "CMakeLists.txt"]):
        if path.suffix in KINDS or path.name == "CMakeLists.txt":
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def commit(root: Path = ROOT) -> str:
    """The commit checked out, "unknown" outside a git checkout (an installed package inside another one too)."""
    if not (root / ".git").exists():
        return "unknown"
    try:
        return subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> None:
    stamps = {"SOURCE_HASH": source_hash(), "COMMIT": commit(), "CUDA_PROBLEM": "".join(sys.argv[2:3])}
    # JSON escapes what C++ wants escaped.
    header = "".join(f"#define DISTILLKAC_{name} {json.dumps(str(text))}\n" for name, text in stamps.items())
    out = Path(sys.argv[1])
    if not out.exists() or out.read_text(encoding="utf-8") != header:  # an unchanged stamp recompiles nothing
        out.write_text(header, encoding="utf-8")


if __name__ == "__main__":
    main()
