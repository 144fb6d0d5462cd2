"""What a GPU can be expected to do, from the counts of sass.py and the shape of a launch: arithmetic, no GPU is needed.

    python csrc/tools/cuda_model.py            # the tables of docs/speed.md
    python csrc/tools/cuda_model.py --write    # puts them there

Two bounds. Issue: the warp schedulers, and each kind of lane, take so many instructions a clock; the dearest of them counts
(the hot path where it branches, and a unit's set-up). Memory: the bytes of an element at the bandwidth of a copy. The share
of that bandwidth is what is left if the two overlap wholly and nothing else waits: no kernel can have more.
"""

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

TOOLS = Path(__file__).resolve().parent
BUDGET = TOOLS / "sass_budget.json"
PAGE = TOOLS.parents[1] / "docs" / "speed.md"
BEGIN, END = "<!-- predicted:begin -->", "<!-- predicted:end -->"
THREADS, UNIT, MOST_BLOCKS = 128, 2048, 8192  # of csrc/ops/cuda_common.cuh
LONGEST, MANY_UNITS = 4, 2048  # units of the draws are up to so many times as long, while so many are left
SHAPES = ((64, 3, 32, 32), (256, 3, 32, 32), (32, 3, 256, 256), (128, 3, 256, 256))  # of benchmarks/

# Lanes of one multiprocessor a clock (CUDA C++ Programming Guide, arithmetic instructions; 128 bytes of L1 a clock).
LANES = {
    "sm_80": {"floating": 64, "multiply": 64, "integer": 64, "special": 16, "words": 32, "all": 128},
    "sm_90": {"floating": 128, "multiply": 64, "integer": 64, "special": 16, "words": 32, "all": 128},
}


class Machine(NamedTuple):
    architecture: str
    multiprocessors: int
    clock: float  # Hz
    copy: float  # bytes a second that a copy moves, read and written


MACHINES = {"H100": Machine("sm_90", 132, 1.755e9, 3.0e12), "H200": Machine("sm_90", 132, 1.755e9, 4.3e12)}


class Launch(NamedTuple):
    blocks: int
    resident: int  # blocks that one multiprocessor holds
    waves: float  # of all that the GPU holds
    busy: float  # share of the multiprocessors' time that is not tail: the one with most units has whole ones


def bytes_of(kernel: str) -> int:
    """Bytes that an op reads and writes for an element."""
    size = 4 if kernel.endswith("float32") else 2
    arrays = {
        "kac_noise": 1,
        "kac_velocity": 2,
        "kac_pair": 3,
        "guided_velocity": 3,
        "guided_step": 6,
        "endpoint_loss": 3,
    }
    return size * (arrays[kernel.split()[0]] + ("to t_to" in kernel)) + (4 if kernel.startswith("endpoint_loss") else 0)


def unit_of(kernel: str, shape: tuple[int, ...]) -> int:
    """Elements of a unit of an array (B, ...)."""
    unit, width = UNIT, math.prod(shape[1:])
    draws = kernel.startswith(("kac_noise", "kac_pair"))
    while draws and unit < LONGEST * UNIT and shape[0] * math.ceil(width / (2 * unit)) >= MANY_UNITS:
        unit *= 2
    return unit


def clocks(kernel: str, counts: dict[str, float], architecture: str) -> dict[str, float]:
    """{lanes: clocks of a multiprocessor for an element of a large array}: how long each kind of lane is taken up."""
    lanes = LANES[architecture]
    taken = {kind: counts[kind] / lanes[kind] for kind in ("multiply", "integer", "special", "words")}
    taken["floating"] = (counts["floating"] + counts["multiply"]) / lanes["floating"]  # products run on these too
    setup = counts["unit"] * UNIT / unit_of(kernel, SHAPES[-1])
    return taken | {"all": (counts["most"] + setup) / lanes["all"]}


def share(kernel: str, counts: dict[str, float], machine: Machine) -> float:
    """The share of a copy's bandwidth that the kernel can have at most, 0 to 1."""
    issue = max(clocks(kernel, counts, machine.architecture).values()) / (machine.multiprocessors * machine.clock)
    memory = bytes_of(kernel) / machine.copy
    return memory / max(issue, memory)


def resident(registers: int, shared: int) -> int:
    """Blocks of THREADS that a multiprocessor of sm_80 to sm_100 holds: 64 warps, 65,536 registers, 164 KB for sharing."""
    warps = THREADS // 32
    of_registers = 65536 // (math.ceil(registers * 32 / 256) * 256 * warps)
    return min(64 // warps, of_registers, 164 * 1024 // (shared + 1024))


def launch(kernel: str, shape: tuple[int, ...], counts: dict[str, float], machine: Machine) -> Launch:
    """How the units of a shape (B, ...) fall on a machine."""
    width, unit = math.prod(shape[1:]), unit_of(kernel, shape)
    units = shape[0] * math.ceil(width / unit)
    blocks, held = min(units, MOST_BLOCKS), resident(int(counts["registers"]), int(counts["shared bytes"]))
    rounds = math.ceil(units / machine.multiprocessors)  # of units, on the multiprocessor that has most
    busy = shape[0] * width / (rounds * unit * machine.multiprocessors)
    return Launch(blocks, held, blocks / (held * machine.multiprocessors), busy)


def tables(budget: dict) -> str:
    """The two tables, in Markdown."""
    kernels = {name: n for name, n in budget["sm_90"].items() if not name.endswith(" float16")}
    lines = [
        "| kernel | floating | integer | shared | global | control | all, least–most | set-up "
        "| an H100 is bound by | H100 | H200 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, n in sorted(kernels.items(), key=lambda item: item[0].split()[-1] != "float32"):
        taken = clocks(name, n, "sm_90")
        dearest = max(taken, key=lambda kind: taken[kind])
        words = {"all": "issue", "words": "shared memory", "floating": "floating lanes", "multiply": "products"}
        shares = [share(name, n, machine) for machine in MACHINES.values()]
        bound = "memory" if shares[0] == 1 else words.get(dearest, f"{dearest} lanes")
        numbers = [n["floating"] + n["special"], n["multiply"] + n["integer"], n["shared"], n["global"], n["control"]]
        span = f"{n['most']:.1f}" if n["least"] == n["most"] else f"{n['least']:.1f}–{n['most']:.1f}"
        cells = [f"{number:.1f}" for number in numbers] + [span, f"{n['unit']:.1f}", bound]
        lines.append(f"| {name} | " + " | ".join(cells + [f"{value:.0%}" for value in shares]) + " |")
    lines += [
        "",
        "| kernel, shape | blocks | resident on a multiprocessor | waves | busy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in ("kac_noise telegraph float32", "kac_pair telegraph float32", "guided_step of coordinates float32"):
        for shape in SHAPES:
            at = launch(name, shape, kernels[name], MACHINES["H100"])
            of = "×".join(map(str, shape))
            lines.append(f"| {name}, {of} | {at.blocks} | {at.resident} | {at.waves:.2f} | {at.busy:.0%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the tables of docs/speed.md")
    write = parser.parse_args().write
    text = tables(json.loads(BUDGET.read_text(encoding="utf-8")))
    print(text)
    if write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
