"""Counts the instructions per element of the AVX2 kernels under callgrind: a guard of speed that no clock disturbs.

python -m tests.kernels.instruction_counts.measure --write    commits the present counts as the budget (say why in the change)
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

from tests import standalone

HERE = Path(__file__).resolve().parent
BUDGET = HERE / "budget.json"
ROWS = {"rows of 3072": (32, 3072), "rows of 64": (512, 64), "rows of 1": (2048, 1)}
CASES = [
    *(
        (op, process, "rows of 3072")
        for op in ("kac_noise", "kac_velocity", "kac_pair")
        for process in ("telegraph", "planar", "quad")
    ),
    ("kac_noise", "telegraph", "rows of 64"),
    ("kac_noise", "planar", "rows of 64"),
    ("kac_noise", "quad", "rows of 64"),
    ("kac_noise", "telegraph", "rows of 1"),
    ("kac_pair_bfloat16", "telegraph", "rows of 3072"),
    ("kac_pair_to", "telegraph", "rows of 3072"),
    ("kac_pair_to", "planar", "rows of 3072"),
    ("kac_pair_to", "quad", "rows of 3072"),
    *(
        (op, process, "rows of 3072")
        for op in ("guided_velocity", "guided_step")
        for process in ("telegraph", "planar", "quad")
    ),
    ("endpoint_loss", "telegraph", "rows of 3072"),
    ("group_norm", "any", "rows of 3072"),
    ("group_norm_grad", "any", "rows of 3072"),
]


def compiler() -> str:
    """The compiler whose code was counted: another one writes other instructions."""
    return (
        "g++ "
        + subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True)
        .stdout.split(".")[0]
        .strip()
    )


def build(folder: Path, mutate=lambda name, text: text) -> Path:
    """The driver, linked with the kernels. mutate(name, text): plants a slow-down, to test the test."""
    return standalone.build(folder, HERE / "driver.cpp", ["avx2"], mutate=mutate)


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
