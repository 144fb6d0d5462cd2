"""The paper's CIFAR-10 network: images per second of training and sampling, and memory. `python -m benchmarks.gpu.throughput`.

Trains the preset cifar10 on random images by the product's own loop, each variant in a process of its own, and samples the
result. On a CPU a narrow network stands for it, to show that the script works.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Words of a variant: how the network computes. TF32 is torch's on a GPU here; float32 without it is for comparison.
VARIANTS = ("float32", "TF32", "bf16", "bf16 compiled", "bf16 checkpointing")
SAMPLED = "bf16 compiled"  # of which variant samples are timed
SAMPLING_STEPS = (1, 4, 20, 100)
STEPS, LOG = 30, 10  # the last ten steps are timed: by then all is compiled and warm
IMAGES = 128  # sampled at once
RECORDED = 20  # batches of so many by a CUDA graph, the recording among them


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.throughput")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variant", choices=VARIANTS, help="this one, in this process, printed as JSON")
    args = parser.parse_args(argv)
    if args.variant:
        print(json.dumps(measured(args.variant, args.device)))
        return 0
    rows, failed = [], 0
    for variant in VARIANTS if args.device == "cuda" else VARIANTS[:3]:
        words = ["--variant", variant, "--device", args.device, "--out", str(args.out)]
        strict = {"NVIDIA_TF32_OVERRIDE": "0"} if variant == "float32" else {}
        command = [sys.executable, "-m", "benchmarks.gpu.throughput", *words]
        done = subprocess.run(command, env=os.environ | strict, stdout=subprocess.PIPE, text=True)
        failed += done.returncode != 0
        row = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"variant": f"{variant}: failed"}
        print(row, flush=True)
        rows.append(row)
        args.out.write_text(json.dumps(table(rows, args.device)), encoding="utf-8")
    return int(failed > 0)


def table(rows: list[dict], device: str) -> dict:
    ways = [way for steps in SAMPLING_STEPS for way in (f"{steps}", f"{steps} by CUDA graph")]
    columns = ["training", "images/s", "memory, GB", *(f"steps {way}, images/s, in TF32, not compiled" for way in ways)]
    cells = [[row["variant"], *(str(row.get(name, "")) for name in ("rate", "memory", *ways))] for row in rows]
    network = (
        "preset cifar10, batch 128" if device == "cuda" else "a narrow network in place of preset cifar10, batch 8"
    )
    return {"title": f"Training and sampling, {network}", "columns": columns, "rows": cells}


def measured(variant: str, device: str) -> dict:
    """{variant, rate, memory, and for each number of sampling steps images per second, without and with a CUDA graph}."""
    import torch

    from distillkac.data import from_tensors
    from distillkac.runs import generate
    from distillkac.runs.sampler import SamplerConfig
    from distillkac.training import train

    images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(len(images)) % 10
    with tempfile.TemporaryDirectory() as folder:
        run = train(Path(folder) / "run", from_tensors(images, labels), config=config(variant, device))
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        row = {"variant": variant, "rate": json.loads(lines[-1])["samples_per_second"]}
        if device == "cuda":
            row["memory"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        if variant == SAMPLED or device == "cpu":
            number = IMAGES if device == "cuda" else 4
            chosen = torch.arange(number) % 10
            for steps in SAMPLING_STEPS if device == "cuda" else SAMPLING_STEPS[:2]:
                sampler = SamplerConfig(steps=steps, model="teacher")
                generate(run, chosen, sampler)  # warm
                row[str(steps)] = round(number / generate(run, chosen, sampler).seconds, 1)
                if device == "cuda":  # many batches, as each drawing records anew
                    many = chosen.repeat(RECORDED)
                    seconds = generate(run, many, sampler, batch_size=number, graph=True).seconds
                    row[f"{steps} by CUDA graph"] = round(len(many) / seconds, 1)
    return row


def config(variant: str, device: str):
    """The preset, short and without what is not timed."""
    from distillkac.runs.presets import PRESETS

    known, words = PRESETS["cifar10"], variant.split()[1:]
    optim = dataclasses.replace(
        known.optim,
        precision="bf16" if variant.startswith("bf16") else "no",
        compile="compiled" in words,
        log_every=LOG,
        save_every=STEPS,
    )
    network = dataclasses.replace(known.network, checkpointing="checkpointing" in words)
    steps = STEPS
    if device == "cpu":
        network = dataclasses.replace(network, channels=(32, 32), layers=1, attention=(), head_dim=32)
        optim, steps = dataclasses.replace(optim, batch_size=8, log_every=1), 2
    return type(known)(network=network, noise=known.noise, optim=optim, steps=steps, preview=0)


if __name__ == "__main__":
    sys.exit(main())
