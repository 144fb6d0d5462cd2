"""How weights are fitted: the options --optim of every command that trains."""

from dataclasses import dataclass
from typing import Literal

from distillkac.base.ranges import in_ranges

LONGEST_AVERAGE = 0.28
"""Of a relative length, see training/power_averages.py: at 0.2887 all steps count alike."""


@dataclass(frozen=True)
@in_ranges(
    "optim",
    batch_size="[1, 1e9]",
    accumulate="[1, 1e9]",
    lr="(0, 100]",
    lr_end="[0, 1]",
    warmup="[0, 1e12]",
    decay="(0, 1]",
    weight_decay="[0, 100]",
    clip="(0, 1e12]",
    ema="[0, 1]",
    averages=f"(0, {LONGEST_AVERAGE}]",
    snapshot_every="[1, 1e12]",
    decays="(0, 1)",
    beta1="[0, 1)",
    beta2="[0, 1)",
    exact_parts="[1, 1e9]",
    workers="[0, 1024]",
    log_every="[1, 1e12]",
    save_every="[1, 1e12]",
    keep="[1, 1e6]",
    measure_every="[0, 1e12]",
    measure_images="[2, 1e9]",
)
class OptimConfig:
    """How weights are fitted, for teachers and students alike."""

    batch_size: int = 128
    """Samples per optimizer step, over all processes and accumulated micro-batches."""
    accumulate: int = 1
    """Micro-batches per optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon: for the weight matrices and convolutions between the first and the last layer; AdamW has the rest."""
    lr: float = 2e-3
    """Peak learning rate, of AdamW's scale for both."""
    lr_end: float = 0.01
    """Final learning rate as a fraction of the peak."""
    warmup: int = 100
    """Steps of warm-up, linear."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """What follows the warm-up. Cosine: from the peak down, over all steps. Wsd (warm-up, stable, decay): the peak until the
    last part of the steps. Continued before that part, with more steps, a run is as if it had been asked for them at first, but
    for consistency from data alone, whose phases are spread over all steps."""
    decay: float = 0.2
    """Share of the steps, the last ones, in which wsd falls, as 1 - sqrt."""
    weight_decay: float = 1e-3
    clip: float = 1.0
    """Largest gradient norm; longer gradients are scaled down."""
    ema: float = 0.999
    """Decay of the moving average of the weights; starts lower, as (1 + k) / (10 + k) after k steps."""
    averages: tuple[float, ...] = ()
    """Relative lengths of power averages of the weights kept besides, such as 0.05 0.10: of these two `evaluate --ema` makes an
    average of any length after the training. Each costs the memory of the weights, and again so much on disk a snapshot."""
    snapshot_every: int | None = None
    """Steps between two snapshots of the power averages, RUN/averages/step-N.safetensors. By default a 16th of --steps."""
    decays: tuple[float, ...] = ()
    """Decays of further moving averages like that of optim.ema, for `evaluate --ema`. Each costs the memory of the weights."""
    beta1: float = 0.9
    """AdamW's decay of the gradient's mean."""
    beta2: float = 0.999
    """AdamW's decay of the gradient's square."""
    precision: Literal["no", "bf16"] = "no"
    """Autocast of the network to bfloat16; "no" is float32, whose products a GPU makes in TF32."""
    compile: bool = False
    """Compile the networks by torch.compile, forward and backward, in the first step, which takes half a minute or more: for
    long trainings on a GPU; on a CPU a U-Net's steps are as long or longer. Goes on without, and says so, where the
    compiler is missing."""
    exact_parts: int | None = None
    """The same weights to the bit for any number of threads, and of processes that divides this power of two: gradients of
    so many parts of each batch are found one after the other, by one thread, and added in one order. On a CPU."""
    shard: bool = False
    """Spread weights, their average and the optimizer's state over the processes (FSDP), for networks too large for one
    device."""
    workers: int | None = None
    """Threads that read images ahead. If not given, none for images in memory and up to 4 for others."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    keep: int = 1
    """Checkpoints that are kept: above 1, the last so many are RUN/checkpoints/step-000200 and so on besides, each a run
    folder as large as the run's."""

    measure_every: int = 0
    """Steps between two measurements of the averaged network by the figures of `evaluate`, put off where they would take more
    than 5% of the time; 0 measures nothing. The checkpoint of the least Fréchet distance (held-out) is kept as RUN/best."""
    measure_images: int | None = None
    """Images of a measurement. By default as many as cost about 3% of the network evaluations between two, 100 to 5000."""
    stop: Literal["none", "plateau", "copying"] = "none"
    """End the training before its last step. Plateau: when the Fréchet distance has stopped falling beyond its noise. Copying:
    when more samples are copies of training images than of the held-out images are."""

    def __post_init__(self):
        _check_averages(self)
        _check_measuring(self)
        if self.schedule == "cosine" and self.decay != OptimConfig.decay:
            raise ValueError(f"optim.decay {self.decay:g} is of optim.schedule wsd, and this one is cosine: omit it")
        if self.exact_parts is not None:
            if self.exact_parts & (self.exact_parts - 1):
                raise ValueError(f"optim.exact_parts must be a power of two (1, 2, 4, ...), got {self.exact_parts}")
            if self.batch_size % self.exact_parts:
                raise ValueError(
                    f"optim.batch_size {self.batch_size} is not a multiple of exact_parts {self.exact_parts}"
                )
            if self.shard or self.accumulate != 1:
                raise ValueError("optim.exact_parts cuts the batch itself: omit optim.accumulate and optim.shard")
            if self.compile:
                raise ValueError(
                    "optim.exact_parts promises the same bits for any number of threads, which compiled code does not: omit "
                    "optim.compile"
                )
        if self.compile and self.shard:
            raise ValueError(
                "optim.compile is for whole networks, and optim.shard gathers them in parts: omit one of them"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(f"optim.batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")


def _check_averages(optim: OptimConfig) -> None:
    for name in ("averages", "decays"):
        values = getattr(optim, name)
        if len(set(values)) < len(values):
            raise ValueError(f"optim.{name} names one of its averages twice, got {values}")
    if optim.snapshot_every is not None and not optim.averages:
        raise ValueError(
            "optim.snapshot_every is of power averages: give optim.averages, such as 0.05 0.10, or omit it"
        )


def _check_measuring(optim: OptimConfig) -> None:
    for name, off in (("measure_images", None), ("stop", "none")):
        if not optim.measure_every and getattr(optim, name) != off:
            raise ValueError(f"optim.{name} is of measuring: give optim.measure_every, such as 1000, or omit it")


def refuse_measuring(optim: OptimConfig) -> None:
    """Raises ValueError if students are to be measured while they are made."""
    if optim.measure_every:
        raise ValueError(
            "optim.measure_every is of train: omit it, and measure students by evaluate, of several checkpoints with "
            "optim.keep, of several averages with optim.averages and evaluate --ema all"
        )
