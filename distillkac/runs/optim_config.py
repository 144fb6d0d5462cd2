"""How weights are fitted: the options --optim of every command that trains."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OptimConfig:
    """How weights are fitted, for teachers and students alike."""

    batch_size: int = 128
    """Samples per optimizer step, over all processes and accumulated micro-batches."""
    accumulate: int = 1
    """Micro-batches per optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon: for the weight matrices and convolutions between the first and the last layer; AdamW has the rest."""
    lr: float = 2e-3
    """Peak learning rate, of AdamW's scale for both; linear warm-up, then cosine."""
    lr_end: float = 0.01
    """Final learning rate as a fraction of the peak."""
    warmup: int = 100
    """Steps of warm-up."""
    weight_decay: float = 1e-3
    clip: float = 1.0
    """Largest gradient norm; longer gradients are scaled down."""
    ema: float = 0.999
    """Decay of the moving average of the weights; starts lower, as (1 + k) / (10 + k) after k steps."""
    beta1: float = 0.9
    """AdamW's decay of the gradient's mean."""
    beta2: float = 0.999
    """AdamW's decay of the gradient's square."""
    precision: Literal["no", "bf16"] = "no"
    """Autocast of the network to bfloat16; "no" is float32, whose products a GPU makes in TF32."""
    compile: bool = False
    """Compile the networks by torch.compile, forward and backward, in the first step, which takes half a minute or more: for
    long trainings. Goes on without, and says so, where the compiler is missing."""
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

    def __post_init__(self):
        for name in ("batch_size", "accumulate", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"optim.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("warmup", "weight_decay", "workers"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"optim.{name} must be at least 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("ema", "lr_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.exact_parts is not None:
            if self.exact_parts < 1 or self.exact_parts & (self.exact_parts - 1):
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
