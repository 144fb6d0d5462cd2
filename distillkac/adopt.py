"""A run of a model that diffusers saved: `python -m distillkac.adopt SOURCE --run runs/mine [--data.path DIR]`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from distillkac.base.commands import command, prog
from distillkac.base.options import parse
from distillkac.base.paths import PATH_OR_NAME
from distillkac.base.ranges import in_ranges
from distillkac.data.config import DataConfig
from distillkac.runs.process_config import ADOPTED


@dataclass(frozen=True)
@in_ranges("", **ADOPTED)
class AdoptArgs:
    """Makes a run folder of a trained model of diffusers, to be sampled, measured and distilled as a teacher of ours.

    Understood are UNet2DModel and DiTTransformer2DModel with the schedulers DDPM, DDIM, DPMSolverMultistep, EulerDiscrete,
    EDMEuler and FlowMatchEulerDiscrete, in safetensors. Without --data.* the run knows no images: what measures or trains on
    some asks for --data.path then.
    """

    source: tyro.conf.Positional[str] = field(metadata=PATH_OR_NAME)
    """Folder that save_pretrained wrote, of a pipeline or of a model alone; or a name on the Hub."""
    run: Path
    """New run folder."""
    scheduler: Path | None = None
    """Folder of the scheduler that it was trained with, where that does not lie beside it."""
    null_class: bool | None = None
    """Whether the last class that a U-Net knows means no class, for guidance. If not given, where it knows one class more than
    the images have."""
    sigma: float = 1.0
    """Spread of the noise at t = 1 of the run's process, in units of the data."""
    max_ratio: float | None = None
    """Leaves out the timesteps that have more noise than so many times the data. By default 160 for a model that predicts the
    noise, none for others."""
    data: DataConfig = field(default_factory=DataConfig)


@command
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(AdoptArgs, argv, prog("adopt"))
    from distillkac.flow.adopted import AdoptedNetwork
    from distillkac.runs import foreign
    from distillkac.runs.adoption import adopt
    from distillkac.runs.process_config import law
    from distillkac.runs.run import network_config

    told = any(word.startswith("--data.") for word in argv)
    made = adopt(
        args.source,
        args.run,
        args.data if told else None,
        scheduler=args.scheduler,
        null_class=args.null_class,
        sigma=args.sigma,
        max_ratio=args.max_ratio,
    )
    network, shape = network_config(made.folder, made.config), "x".join(map(str, made.config.shape))
    assert isinstance(network, AdoptedNetwork), "what adopt makes"
    print(
        f"{args.source} -> {args.run}: {network.model}, {network.schedule.name}, {network.prediction}, {shape}, "
        f"{len(made.config.class_names)} classes; {law(made.config.noise)} up to tau {network.tau_max:.6g}"
    )
    if network.classes is not None and not network.null_class:
        print(
            "not guided: each of its classes stands for itself; if its last means no class, adopt it with --null-class True"
        )
    for part in foreign.not_used(foreign.find(args.source, args.scheduler), network):
        print(f"not used: {part}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
