"""Builds programs from the CPU kernels without torch, for callgrind and the sanitizers."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.places import ROOT


def cmake_flags(name: str) -> list[str]:
    """What CMakeLists.txt sets a list to."""
    return re.search(rf"set\({name} ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))[1].split()


def kernel_flags(level: str) -> list[str]:
    """The flags of the kernels of one SIMD level, as CMakeLists.txt has them."""
    names = ("KERNEL_FLAGS", f"FLAGS_{level}") if level != "portable" else ("KERNEL_FLAGS",)
    return [flag for name in names for flag in cmake_flags(name)]


def build(folder: Path, driver: Path, levels, flags=(), mutate=lambda name, text: text, compiler="g++") -> Path:
    """The program of `driver`, linked with the kernels of `levels`. A second build compiles what has changed.

    flags: further ones, which win over those of the kernels. mutate(name, text): plants a bug, to test the tests.
    """
    csrc, changed = folder / "csrc", {driver} if not (folder / "driver").exists() else set()
    for path in (p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp")):
        copy = csrc / path.relative_to(ROOT / "csrc")
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = mutate(path.name, path.read_text(encoding="utf-8"))
        if not copy.exists() or copy.read_text(encoding="utf-8") != text:
            copy.write_text(text, encoding="utf-8")
            changed.add(copy)
    embed = [ROOT / "csrc/tools/embed_table.py", ROOT / "csrc/telegraph/quantile_table.bin"]
    subprocess.run([sys.executable, *map(str, embed), str(folder / "quantile_table.inc")], check=True)
    kernels = [source for room in ("network", "ops") for source in sorted((csrc / room).glob("*.cpp"))]
    jobs = [(source, level) for level in levels for source in kernels]
    jobs += [(csrc / "telegraph" / "quantile_table.cpp", levels[0]), (driver, levels[0])]
    every = any(path.suffix == ".h" for path in changed)

    def compile_one(job):
        source, level = job
        target = folder / f"{source.stem}.{level}.o"
        if target.exists() and not every and source not in changed:
            return str(target)
        command = [compiler, "-std=gnu++20", "-g", *kernel_flags(level), *flags, f"-DDISTILLKAC_ARCH={level}", "-w"]
        subprocess.run([*command, f"-I{folder}", f"-I{csrc}", "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, jobs))
    program = folder / "driver"
    subprocess.run([compiler, *flags, *objects, "-pthread", "-o", str(program)], check=True)
    return program
