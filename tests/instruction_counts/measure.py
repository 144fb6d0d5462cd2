"""Counts the instructions per element of the AVX2 kernels under callgrind: a guard of speed that no clock disturbs.

python -m tests.instruction_counts.measure --write    commits the present counts as the budget (say why in the change)
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUDGET = HERE / "budget.json"
ROWS = {"rows of 3072": (32, 3072), "rows of 64": (512, 64), "rows of 1": (2048, 1)}
CASES = [
    *(
        (op, process, "rows of 3072")
        for op in ("kac_noise", "kac_velocity", "kac_pair")
        for process in ("telegraph", "planar")
    ),
    ("kac_noise", "telegraph", "rows of 64"),
    ("kac_noise", "planar", "rows of 64"),
    ("kac_noise", "telegraph", "rows of 1"),
    ("kac_pair_bfloat16", "telegraph", "rows of 3072"),
    *(
        (op, process, "rows of 3072")
        for op in ("guided_velocity", "guided_step")
        for process in ("telegraph", "planar")
    ),
    ("endpoint_loss", "telegraph", "rows of 3072"),
]


def compiler() -> str:
    """The compiler whose code was counted: another one writes other instructions."""
    return (
        "g++ "
        + subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True)
        .stdout.split(".")[0]
        .strip()
    )


def flags() -> list[str]:
    """The flags of the AVX2 kernels, as CMakeLists.txt has them."""
    cmake = (ROOT / "CMakeLists.txt").read_text()
    return [
        flag
        for name in ("KERNEL_FLAGS", "FLAGS_avx2")
        for flag in re.search(rf"set\({name} ([^)]*)\)", cmake)[1].split()
    ]


def build(folder: Path, mutate=lambda name, text: text) -> Path:
    """The driver, linked with the kernels. mutate(name, text): plants a slow-down, to test the test."""
    for path in (p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp")):
        copy = folder / "csrc" / path.relative_to(ROOT / "csrc")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(mutate(path.name, path.read_text()))
    table = ROOT / "csrc" / "telegraph" / "quantile_table.bin"
    embed = [
        sys.executable,
        str(ROOT / "csrc" / "tools" / "embed_table.py"),
        str(table),
        str(folder / "quantile_table.inc"),
    ]
    subprocess.run(embed, check=True)
    csrc = folder / "csrc"
    sources = [*sorted((csrc / "ops").glob("*.cpp")), csrc / "telegraph" / "quantile_table.cpp", HERE / "driver.cpp"]

    def compile_one(source):
        target = folder / (source.stem + ".o")
        command = ["g++", "-std=gnu++20", "-g", *flags(), "-DDISTILLKAC_ARCH=avx2", "-w", f"-I{folder}", f"-I{csrc}"]
        subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    subprocess.run(["g++", *objects, "-o", str(folder / "driver")], check=True)
    return folder / "driver"


def count(driver: Path, op: str, process: str, rows: str) -> float:
    """Instructions per element."""
    arguments = [op, process, *map(str, ROWS[rows])]
    command = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--toggle-collect=measured",
        str(driver),
    ]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    return int(re.search(r"Collected : (\d+)", result.stderr)[1]) / int(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the committed budget")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory() as folder:
        driver = build(Path(folder))
        counts = {" ".join(case): round(count(driver, *case), 3) for case in CASES}
    text = json.dumps({"compiler": compiler(), "instructions per element": counts}, indent=2) + "\n"
    print(text, end="")
    if write:
        BUDGET.write_text(text)


if __name__ == "__main__":
    main()
