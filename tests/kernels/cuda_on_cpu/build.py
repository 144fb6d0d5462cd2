"""Compiles the project's .cu files for the CPU: `build(folder, sanitize=False)` returns the shared library's path.

Only the launch syntax is translated, kernel<<<blocks, threads, shared, stream>>>(arguments); the rest is plain C++ once
cuda_runtime.h of this folder stands in for CUDA's.
"""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.places import CSRC

HERE = Path(__file__).resolve().parent
LAUNCH = re.compile(r"(\w+(?:<[^<>;]*>)?)<<<(.*?)>>>\((.*?)\);", re.DOTALL)


def translate(source: str) -> str:
    """Launches become calls of emulation::launch; everything else stays as it is."""
    return LAUNCH.sub(r"emulation::launch(\2, [=] { \1(\3); });", source)


def build(folder: Path, sanitize: bool = False, mutate=lambda name, text: text) -> Path:
    """folder: where to work. sanitize: with AddressSanitizer and UndefinedBehaviorSanitizer.

    mutate(name, text): plants bugs, to test the tests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "quantile_table.inc"
    embed, binary = CSRC / "tools" / "embed_table.py", CSRC / "telegraph" / "quantile_table.bin"
    subprocess.run([sys.executable, str(embed), str(binary), str(table)], check=True)
    # A copy of csrc, so that relative includes work and bugs can be planted in headers as well.
    copies = []
    for path in sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cuh", ".cu")):
        copy = folder / "csrc" / path.relative_to(CSRC)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(mutate(path.name, translate(path.read_text()) if path.suffix == ".cu" else path.read_text()))
        copies.append(copy)
    flags = [
        "-std=c++17",
        "-O1",
        "-g",
        "-fPIC",
        "-ffp-contract=off",
        "-w",
        f"-I{HERE}",
        f"-I{folder}",
        f"-I{folder / 'csrc'}",
    ]
    if sanitize:
        flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

    def compile_one(source: Path) -> str:
        target = folder / (source.name + ".o")
        # As nvcc does, this header before any other: what the sources ask of __CUDACC__ is then the same everywhere.
        language = ["-x", "c++", "-DDISTILLKAC_ARCH=cuda", "-include", "cuda_runtime.h"]
        subprocess.run(["g++", *flags, *language, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, [p for p in copies if p.suffix == ".cu"] + [HERE / "flat.cpp"]))
    library = folder / "emulated.so"
    subprocess.run(["g++", "-shared", *flags, *objects, "-o", str(library)], check=True)
    return library
