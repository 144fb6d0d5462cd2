"""A DDPM trained with diffusers alone, as its own example does it: a teacher for `distillkac.adopt` (docs/teachers.md).

    pip install diffusers accelerate
    python examples/ddpm_teacher.py --out ddpm --data.path /usr/share/datasets/fashion-mnist

Class-conditional, epsilon, cosine schedule; a class more than the images have stands for none, so that it can be guided.
distillkac only reads the images. The result is a pipeline's folder: unet/, scheduler/, model_index.json.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.nn.functional import mse_loss

from distillkac.base.commands import command
from distillkac.base.options import parse
from distillkac.data import DataConfig, Dataset, load, read


@dataclass(frozen=True)
class TeacherArgs:
    """Trains a DDPM on labelled images with diffusers, and saves its average as a pipeline."""

    out: Path
    """New folder for the pipeline."""
    data: DataConfig = field(default_factory=DataConfig)
    channels: tuple[int, ...] = (32, 64, 96)
    """Channels of each level of the U-Net, multiples of 8; a level has half the sides of the one before."""
    steps: int = 4000
    """Training steps."""
    batch: int = 128
    """Images in each of them."""
    lr: float = 1e-3
    """Learning rate after 200 steps; it falls to 0 as a cosine."""
    no_class: float = 0.1
    """Share of images that are shown without their class."""
    bf16: bool = False
    """bfloat16 where torch's autocast allows it."""
    compile: bool = False
    """torch.compile, which needs a C++ compiler."""
    half: bool = False
    """Save float16 weights."""
    seed: int = 0
    """Of weights, order and noise."""


def batches(images: Dataset, args: TeacherArgs) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(x (batch, C, H, W) in [-1, 1], y (batch,)) of every step, every epoch in another order."""
    order = images.order(args.seed)
    for start in range(0, args.steps * args.batch, args.batch):
        yield read(images, order(start, start + args.batch).tolist())


def network(shape: tuple[int, int, int], classes: int, channels: tuple[int, ...]) -> UNet2DModel:
    """Its last class means no class."""
    channels_in, height, width = shape
    levels = len(channels)
    return UNet2DModel(
        (height, width),
        channels_in,
        channels_in,
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=8,
        num_class_embeds=classes + 1,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
    )


def train(args: TeacherArgs) -> DDPMPipeline:
    """The loop of diffusers' unconditional example, with classes."""
    torch.manual_seed(args.seed)
    images = load(args.data, "train")
    classes = len(images.class_names)
    unet = network(images.shape, classes, args.channels)
    step_of = torch.compile(unet) if args.compile else unet
    schedule = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", prediction_type="epsilon")
    average = EMAModel(unet.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
    rate = get_cosine_schedule_with_warmup(optimizer, min(200, args.steps // 2), args.steps)
    start, total = time.perf_counter(), 0.0
    for step, (x, y) in enumerate(batches(images, args), 1):
        y = torch.where(torch.rand(len(y)) < args.no_class, classes, y)
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            answer = step_of(schedule.add_noise(x, noise, t), t, y, return_dict=False)[0]
        loss = mse_loss(answer.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        average.step(unet.parameters())
        total += loss.item()
        if step % 100 == 0:
            print(f"step {step}: loss {total / 100:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
            total = 0.0
    average.copy_to(unet.parameters())
    return DDPMPipeline(unet.half() if args.half else unet, schedule)


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(TeacherArgs, argv, "python examples/ddpm_teacher.py")
    if args.out.exists():
        raise ValueError(f"{args.out} is there already: name a new folder")
    if min(args.steps, args.batch) < 1 or not 0 <= args.no_class < 1:
        raise ValueError(f"steps and batch are at least 1 and no_class is in [0, 1), got {args}")
    train(args).save_pretrained(args.out)
    print(f"wrote {args.out}: python -m distillkac.adopt {args.out} --run runs/adopted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
