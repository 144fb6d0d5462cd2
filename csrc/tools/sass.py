"""Counts what a CUDA kernel executes for each element, from its machine code: a GPU is not needed, only NVIDIA's tools.

    pip install nvidia-cuda-nvdisasm     # the disassembler; nvcc compiles
    python csrc/tools/sass.py            # the counts
    python csrc/tools/sass.py --write    # also commits them as the budget, sass_budget.json (say why in the change)

The rule. A kernel's code is cut into basic blocks. Those that hold a call (slow paths of divisions and square roots, rare
words) or, in a loop, a global access of fewer than four neighbouring elements (tails, rows that are not aligned) are left
out: a warp of an aligned row seldom or never runs them. In what is left, the hot loop is an innermost loop with a store; of
several, the one that stores most elements each time round. The hot path is a way once round that loop that moves as many
bytes as any (so with guidance, the step before, every group that exists). Where it branches on the row or on data there are
two counts, `least` and `most`. Every instruction of the way counts, predicated or not. What a block executes before and after
that loop, once for each unit of a row, is counted too (`unit`, for each element of a whole unit): the longest way, but of
the draws, whose rows are prepared by one thread of each of two warps, the mean of a block's four warps. There, a call that
no way avoids counts as one.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from control_flow import access_bytes, functions, hot_path

CSRC = Path(__file__).resolve().parents[1]
BUDGET = Path(__file__).with_name("sass_budget.json")
OPS = ("kac_noise", "kac_velocity", "kac_pair", "guided_velocity", "guided_step", "endpoint_loss")
DRAWS = ("kac_noise", "kac_pair")
ARCHITECTURES = ("80", "90", "100")  # those that CMakeLists.txt names
FLAGS = ("-std=c++17", "-O3", "--fmad=false", "-DDISTILLKAC_ARCH=cuda")  # as CMakeLists.txt has them
PER_THREAD = 16  # elements of a whole unit that a thread has: 2048 of 128 threads

# Instructions by what executes them. Integer: comparisons, selections, moves and conversions too, which share its lanes;
# multiply: integer products, on half of the floating lanes. Control: also constants and the uniform data path.
CLASSES = {
    "floating": "FADD FMUL FFMA HADD2 HMUL2 HFMA2",
    "multiply": "IMAD IMUL",
    "integer": "ISETP IADD3 IADD LOP3 SHF LEA SEL FSEL FSETP FMNMX IMNMX VIMNMX VIADD VIADDMNMX MOV PRMT I2FP F2FP PLOP3 "
    "P2R R2P IABS FMNMX3 VIMNMX3 CS2R FCHK LEPC BMSK SGXT",
    "special": "MUFU F2F F2I I2F FRND POPC FLO DADD DMUL DFMA DSETP",
    "shared": "LDS STS",
    "global": "LDG STG LD ST LDGSTS",
    "control": "BRA BSSY BSYNC BREAK BAR EXIT RET CALL NOP WARPSYNC ENDCOLLECTIVE SHFL VOTE S2R S2UR R2UR LDC LDCU "
    "ULDC UMOV UIADD3 UIMAD USHF ULOP3 ULEA USEL UISETP UPLOP3 UP2UR UFADD UFMUL UFFMA UF2FP UI2FP UI2F UFSETP UPRMT UFSEL "
    "DEPBAR LDGDEPBAR YIELD CCTL ELECT MEMBAR ERRBAR USGXT UVIADD UFMNMX",
}
CLASS_OF = {name: kind for kind, names in CLASSES.items() for name in names.split()}


def find_nvcc() -> str | None:
    """The compiler: on the path, or where CUDA_HOME, CUDA_PATH and custom have it."""
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return shutil.which("nvcc") or next((found for p in places if p and (found := shutil.which(f"{p}/bin/nvcc"))), None)


def find_nvdisasm() -> str | None:
    """The disassembler: on the path, beside nvcc, or of the package nvidia-cuda-nvdisasm in this Python."""
    nvcc = find_nvcc()
    places = [Path(nvcc).resolve().parent] if nvcc else []
    places += [found for folder in sys.path for found in Path(folder).glob("nvidia/*/bin")]
    return shutil.which("nvdisasm") or next((found for p in places if (found := shutil.which(p / "nvdisasm"))), None)


def missing() -> str | None:
    """What cannot be found here and how to get it, or None."""
    if find_nvcc() is None:
        return "needs nvcc"
    return None if find_nvdisasm() else "needs nvdisasm: pip install nvidia-cuda-nvdisasm"


def compiler() -> str:
    """The compiler whose code is counted: another one writes other instructions."""
    text = subprocess.run([str(find_nvcc()), "--version"], capture_output=True, text=True, check=True).stdout
    return f"nvcc {re.search(r'release ([0-9.]+)', text)[1]}"


def compile_op(op: str, architecture: str, folder: Path, csrc: Path = CSRC) -> tuple[Path, str]:
    """(cubin, what ptxas says of registers and memory). Raises RuntimeError with the compiler's words."""
    target = folder / f"{op}_{architecture}.cubin"
    command = [str(find_nvcc()), *FLAGS, f"-arch=sm_{architecture}", "-Xptxas", "-v", "-cubin"]
    run = subprocess.run([*command, str(csrc / "ops" / f"{op}.cu"), "-o", str(target)], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr)
    return target, run.stderr


def compile_all(folder: Path, jobs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[Path, str]]:
    """compile_op of every (op, architecture)."""
    jobs = list(jobs)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(jobs, pool.map(lambda job: compile_op(*job, folder), jobs), strict=True))


def resources(log: str) -> list[tuple[str, str, bool, dict[str, int]]]:
    """[(function, architecture, is a kernel, {what: number})] of what ptxas -v wrote."""
    found: list[tuple[str, str, bool, dict[str, int]]] = []
    for part in re.split(r"(?=ptxas info\s+: (?:Compiling entry function|Function properties for))", log):
        if entry := re.match(r"ptxas info\s+: Compiling entry function '(\w+)' for '(\w+)'", part):
            kernel, architecture = entry.groups()
        elif function := re.match(r"ptxas info\s+: Function properties for (\w+)", part):
            numbers = re.findall(r"(\d+) (?:bytes )?(stack frame|spill stores|spill loads|registers|smem)", part)
            found.append((function[1], architecture, function[1] == kernel, {what: int(n) for n, what in numbers}))
    return found


def disassemble(cubin: Path) -> str:
    return subprocess.run([str(find_nvdisasm()), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout


def kernel_of(op: str, name: str) -> tuple[str, str, int] | None:
    """(label, type, its bytes) of a mangled name; None of a kernel that is not an op's pass over its rows."""
    if not (found := re.search(r"\d+(\w*?)_kernelI(f|NS0_8BFloat16E|NS0_7Float16E)(\w*)", name)):
        return None
    kind = {"f": "float32", "NS0_8BFloat16E": "bfloat16", "NS0_7Float16E": "float16"}[found[2]]
    marks = {
        "pair_to": "to t_to",
        "elegraph": "telegraph",
        "lanar": "planar",
        "uad": "quad",
        "Li1E": "of coordinates",
        "Li2E": "of pairs",
        "Li4E": "of fours",
    }
    variant = [words for mark, words in marks.items() if mark in found[1] + found[3]]
    return " ".join([op, *variant, kind]), kind, 4 if kind == "float32" else 2


def written(kernel: str, size: int) -> int:
    """Bytes that a kernel writes for an element, of a type with `size`: the loss's gradient is always float32."""
    if kernel.startswith("endpoint_loss"):
        return 4
    return size * (3 if "to t_to" in kernel else 2 if kernel.startswith(("kac_pair", "guided_step")) else 1)


def counts(op: str, text: str, log: str) -> dict[str, dict[str, float]]:
    """{kernel: what it executes for an element} of a disassembly: least, most, unit, the classes of most, and its words.

    words: of 4 bytes, that shared and global accesses move. log: of ptxas, gives registers and bytes of shared memory.
    Raises ValueError for an instruction of no class.
    """
    result, taken = {}, {name: numbers for name, _, is_kernel, numbers in resources(log) if is_kernel}
    for name, body in functions(text).items():
        if (kernel := kernel_of(op, name)) is None:
            continue
        label, _, size = kernel
        path = hot_path(body, 4 * size, written(label, size))
        if unknown := {x.name for x in path.most} - set(CLASS_OF):
            raise ValueError(f"{label}: add {', '.join(sorted(unknown))} to CLASSES of csrc/tools/sass.py")
        warps = (1, 3) if op in DRAWS else (4, 0)
        unit = (warps[0] * len(path.unit_most) + warps[1] * len(path.unit_least)) / 4
        kinds = Counter(CLASS_OF[x.name] for x in path.most)
        words = sum(access_bytes(x, "LDS STS LDG STG LDGSTS") for x in path.most) / 4
        numbers = {
            "least": len(path.least) / path.elements,
            "most": len(path.most) / path.elements,
            "unit": unit / PER_THREAD,
            **{kind: kinds[kind] / path.elements for kind in CLASSES},
            "words": words / path.elements,
            "registers": taken[name]["registers"],
            "shared bytes": taken[name].get("smem", 0),
        }
        result[label] = {what: round(number, 2) for what, number in numbers.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the committed budget")
    write = parser.parse_args().write
    if problem := missing():
        raise SystemExit(problem)
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile_all(Path(folder), [(op, a) for a in ARCHITECTURES for op in OPS])
        for (op, architecture), (cubin, log) in compiled.items():
            found.setdefault(f"sm_{architecture}", {}).update(counts(op, disassemble(cubin), log))
    lines = [
        f'    "{label}": {json.dumps(numbers)}'
        for numbers_of in found.values()
        for label, numbers in numbers_of.items()
    ]
    size = len(lines) // len(found)
    blocks = [f'  "{a}": {{\n' + ",\n".join(lines[i * size : (i + 1) * size]) + "\n  }" for i, a in enumerate(found)]
    text = f'{{\n  "compiler": "{compiler()}",\n' + ",\n".join(blocks) + "\n}\n"
    print(text, end="")
    if write:
        BUDGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
