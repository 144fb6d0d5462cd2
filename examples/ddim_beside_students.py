"""DDIM, as diffusers samples a model, beside the students that an adopted run of the same model has.

    python -m distillkac.adopt ddpm --run runs/adopted --data.path DIR
    python -m distillkac.distill runs/adopted --recipe best
    python examples/ddim_beside_students.py ddpm runs/adopted

Prints a row for each: Fréchet distance to the test images and accuracy, by the evaluator of these images (docs/evaluation.md),
and seconds for 1000 images.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import DDIMScheduler, UNet2DModel

from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.evaluation.metrics import Evaluator, describe
from distillkac.runs import SamplerConfig, generate, open_run, reference_labels
from distillkac.runs.run_data import RunData
from distillkac.runs.sampler import Trained


@dataclass(frozen=True)
class BesideArgs:
    """Compares DDIM with the students of an adopted run."""

    model: tyro.conf.Positional[Path]
    """The pipeline's folder of diffusers."""
    run: tyro.conf.Positional[Path]
    """The run that was adopted from it."""
    ddim: tuple[int, ...] = (50, 20, 10, 5)
    """Steps of DDIM, each with the timesteps that the model was saved with, and from the noise on ("trailing")."""
    num: int = 5000
    """Images in each row, the classes as often as the test images have them."""
    batch: int = 250
    """Images at a time."""
    bf16: bool = False
    """bfloat16 where torch's autocast allows it, for all rows."""


@torch.no_grad()
def ddim(
    args: BesideArgs, unet: UNet2DModel, spacing: str | None, steps: int, labels: torch.Tensor, shape: tuple[int, ...]
) -> torch.Tensor:
    """Images of the classes `labels`, as diffusers' DDIMPipeline draws them, which knows no classes."""
    options = {} if spacing is None else {"timestep_spacing": spacing}
    scheduler = DDIMScheduler.from_pretrained(args.model, subfolder="scheduler", **options)
    scheduler.set_timesteps(steps)
    torch.manual_seed(0)
    images = []
    for y in labels.split(args.batch):
        x = torch.randn(len(y), *shape)
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t, class_labels=y).sample.float(), t, x).prev_sample
        images.append(x.clamp(-1, 1))
    return torch.cat(images)


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(BesideArgs, argv, "python examples/ddim_beside_students.py")
    run = open_run(args.run)
    data = RunData(args.run, run.config)
    evaluator = Evaluator(data.load_pixels("train"), data.load_pixels("test"), args.run)
    labels, shape = reference_labels(run.config, args.num), run.config.shape
    print(
        f"{describe(evaluator.identity)}; {args.num} images a row\n{'':32}Fréchet [train]  accuracy diversity  s/1000"
    )

    def row(name: str, draw) -> None:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            images = draw().float()
        seconds = (time.perf_counter() - start) / args.num * 1000
        told = evaluator(images, labels)
        figures = (
            f"{told['frechet']:8.3f} [{told['frechet_train']:.3f}] {told['accuracy']:9.3f} {told['diversity']:9.3f}"
        )
        print(f"{name:32}{figures} {seconds:7.1f}", flush=True)

    unet = UNet2DModel.from_pretrained(args.model, subfolder="unet", torch_dtype=torch.float32).eval()
    for steps in args.ddim:
        for spacing in (None, "trailing"):
            how = (args, unet, spacing, steps, labels, shape)
            row(f"DDIM, {steps} steps" + (f", {spacing}" if spacing else ""), lambda how=how: ddim(*how))
    for steps in args.ddim:
        sampler = SamplerConfig(steps=steps, model="teacher")
        row(
            f"the teacher, {steps} steps",
            lambda sampler=sampler: generate(run, labels, sampler, batch_size=args.batch).images,
        )
    for folder in sorted(args.run.glob("student-*/config.json")):
        student = open_run(folder.parent)
        for steps in (4, 2, 1):
            try:
                Trained.of(student.config).settle(SamplerConfig(steps=steps), student.name)
            except ValueError:
                continue  # made for another number of steps
            sampler = SamplerConfig(steps=steps)
            row(
                f"{student.name}, {steps} step{'s' * (steps > 1)}",
                lambda student=student, sampler=sampler: (
                    generate(student, labels, sampler, batch_size=args.batch).images
                ),
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
