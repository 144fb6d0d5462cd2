"""Measure a run and its students: `python -m distillkac.evaluate runs/demo`."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro

from distillkac.base import files, processes
from distillkac.base.commands import command, prog
from distillkac.base.options import parse, peek
from distillkac.base.outputs import check_file, check_folder
from distillkac.base.paths import PATH_OR_NAME
from distillkac.base.ranges import SEEDS, in_ranges
from distillkac.runs import shipped
from distillkac.runs.data_place import DataPlace
from distillkac.runs.sampler import SamplerConfig, SamplerOptions

if TYPE_CHECKING:
    import torch

    from distillkac.runs.config import RunConfig
    from distillkac.runs.run import Run

GRID_IMAGES = 100
PATH_IMAGES = 10
OVERVIEW_COLUMNS = 10
COPY = "figures are written beside the run, so copy it to where you may write"
Metric = Literal["classifier", "fid", "kid", "precision-recall"]
INCEPTION = ("fid", "kid", "precision-recall")
OF_METRICS = {"inception": INCEPTION, "reference": INCEPTION, "reference_num": INCEPTION, "k": INCEPTION[2:]}
"""Options that say nothing of other metrics."""


@dataclass(frozen=True)
@in_ranges(
    "",
    num="[2, 1e9]",
    teacher_steps="[1, 1e6]",
    seed=SEEDS,
    batch_size="[1, 1e9]",
    reference_num="[2, 1e9]",
    k="[1, 1e6]",
    ema_step="[1, 1e12]",
    processes=processes.SEVERAL,
)
class EvaluateArgs:
    """Measures the teacher and every student of a run against real images, and draws their samples.

    By the features of a classifier of the training images (the default; printed is which one, and its digest: figures of
    other digests do not compare): prints a table, and writes RUN/evaluation.json
    and in RUN/samples a grid for each row of the table, overview.png (a strip for each row, the same noise in every
    column) and trajectory.png. By those of the Inception network (fid, kid, precision-recall; needs the extra `eval`):
    prints protocol and table, and writes RUN/fidelity.json. `accelerate launch -m distillkac.evaluate` shares either
    among GPUs. Where options of the sampler are given, the names of these files have them, such as
    RUN/evaluation-rho-1.json; each row says how it was sampled.
    """

    run: tyro.conf.Positional[Path]
    """Run folder; of a student alone too."""
    num: int = 5000
    """Generated images per row of the table; published FIDs take 50000."""
    teacher_steps: tuple[int, ...] | None = None
    """Step counts at which the run itself is measured; by default 20 and 1, of one of few steps 4, 2 and 1, a student's own."""
    model: Literal["all", "teacher", "student"] = "all"
    """Which networks are measured: the run and its students, or only one of these."""
    sampler: Annotated[SamplerOptions, tyro.conf.arg(name="")] = field(default_factory=SamplerOptions)
    seed: int = 0
    """Seed of the prior noise."""
    batch_size: int = 500
    """Images at a time on a GPU."""
    metrics: tuple[Metric, ...] = ("classifier",)
    """What is measured."""
    inception: str | None = field(default=None, metadata=PATH_OR_NAME)
    """Weights of the Inception network: a .pth file, or the word download. By default what was downloaded before."""
    reference: Literal["test", "train"] = "test"
    """Split whose images are the real ones; FIDs on CIFAR-10 are published against train."""
    reference_num: int = 50_000
    """Real images at most."""
    k: int = 3
    """Nearest neighbours of precision-recall."""
    ema: str | None = None
    """Measure the averages of a run with --optim.averages or --optim.decays: all, a table of them and of the moving average
    (RUN/averages.json, or averages-step-500-w-2.json); or one relative length, such as 0.08, which writes no file."""
    ema_step: int | None = None
    """After which step the averages are; by default the last."""
    keep_best: bool = False
    """With --ema: make the best (by the Fréchet distance to held-out images) the run's model; the moving average is kept."""
    processes: int | Literal["auto"] = 1
    """Processes of this machine that share the images, as --processes of train has them."""
    data: DataPlace = field(default_factory=DataPlace)


@command
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if (code := processes.together("distillkac.evaluate", argv, peek(argv, processes="1").processes)) is not None:
        return code
    args = parse(EvaluateArgs, argv, prog("evaluate"))
    check_options(args)
    shipped.refuse(args.run, "distillkac models NAME --measure measures it")
    from distillkac.runs.config import load_config  # torch only now, so that help and mistakes in options come at once

    config = load_config(args.run)
    if args.ema is not None:
        measure_averages(args, config)
        return 0
    check_outputs(args)
    if "classifier" in args.metrics:
        measure_with_classifier(args, config)
    if set(args.metrics) - {"classifier"}:
        measure_with_inception(args, config)
    return 0


def check_options(args: EvaluateArgs) -> None:
    """Raises ValueError for options that are missing, or would mean nothing beside the others."""
    if not args.metrics:
        raise ValueError(f"metrics must name at least one of {', '.join(get_args(Metric))}")
    if "classifier" in args.metrics and args.teacher_steps == ():
        raise ValueError("teacher_steps must name at least one number of steps")
    if args.ema is None and (args.ema_step is not None or args.keep_best):
        raise ValueError("ema_step and keep_best are of --ema: give it, such as --ema all, or omit them")
    if args.ema is not None and len(args.teacher_steps or ()) > 1:
        raise ValueError("--ema measures at one number of steps: give --teacher-steps one, or omit it")
    if args.ema is not None and args.metrics != ("classifier",):
        raise ValueError("--ema measures by the classifier: omit --metrics")
    if args.ema is not None and args.model != "all":
        raise ValueError("--ema measures the run itself, no students: omit --model")
    if args.ema is not None and (args.processes != 1 or processes.launched()):
        raise ValueError("--ema measures in one process: omit --processes, and start it without a launcher")
    if args.ema is not None and (others := set(args.sampler.asked()) - {"w"}):
        raise ValueError(f"--ema measures averages sampled as by default: omit --{min(others).replace('_', '-')}")
    for name, metrics in OF_METRICS.items():
        if getattr(args, name) != getattr(EvaluateArgs, name) and not set(metrics) & set(args.metrics):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is of --metrics {', '.join(metrics)}: name one of these, or omit {option}")


def check_outputs(args: EvaluateArgs) -> None:
    """Raises ValueError, before anything is trained or drawn, if a result could not be written or a row cannot be."""
    from distillkac.evaluation import rows
    from distillkac.runs import pictures
    from distillkac.runs.config import load_config

    if set(args.metrics) - {"classifier"}:
        check_file(args.run / _file(args, "fidelity", ".json"), COPY)
    if "classifier" in args.metrics:
        check_file(args.run / _file(args, "evaluation", ".json"), COPY)
        check_folder(args.run / "samples", _file(args, "overview"), _file(args, "trajectory"))
    measured = _rows(args)
    rows.check(args.run, measured)
    for folder in {folder for folder, _ in measured} if "classifier" in args.metrics else ():
        config = load_config(folder)
        pictures.check_grid(1, config.shape if config.latent is None else config.latent.shape, 1)


def _file(args: EvaluateArgs, name: str, ending: str = ".png") -> str:
    """The name of a file of results, which says what was asked of the sampler."""
    from distillkac.evaluation.rows import words_of

    words = words_of(args.sampler.asked())
    return f"{name}{words and f'-{words}'}{ending}"


def measure_averages(args: EvaluateArgs, config: "RunConfig") -> None:
    from distillkac.evaluation import averages, rows
    from distillkac.runs.run_data import RunData

    check_file(args.run / averages.report_name(args.ema_step, args.sampler.w), COPY)
    sampler = max((sampler for folder, sampler in _rows(args) if folder == args.run), key=lambda one: one.steps)
    sampler = replace(sampler, w=args.sampler.w)  # not by a weight that students have folded in
    rows.check(args.run, [(args.run, sampler)])
    images, how = RunData(args.run, config, args.data), (args.num, sampler, args.seed, args.batch_size)
    averages.measure_averages(args.run, args.ema or "all", args.ema_step, images, *how, keep=args.keep_best)


def measure_with_classifier(args: EvaluateArgs, config: "RunConfig") -> None:
    """Every process generates its share of the images; the first one measures and writes."""
    from distillkac.evaluation import shares
    from distillkac.evaluation.metrics import COLUMNS, Evaluator, describe
    from distillkac.evaluation.rows import described, title_of
    from distillkac.evaluation.tables import header, line
    from distillkac.runs import pictures, plots
    from distillkac.runs.class_shares import drawn_as, reference_labels, shares_of_classes
    from distillkac.runs.run_data import RunData
    from distillkac.runs.sampling import generate
    from distillkac.training.fit import accelerator_for

    accelerator, how = accelerator_for(config.optim), (args.seed, args.batch_size)
    labels, strips, titles = reference_labels(config, args.num), [], []
    todo = _networks(args, accelerator.device)
    drawn = shares.all_images_of(todo, labels, *how, accelerator)
    if not accelerator.is_main_process:
        for _ in drawn:
            pass
        return
    images = RunData(args.run, config, args.data)
    evaluator = Evaluator(images.load_pixels("train"), images.load_pixels("test"), args.run)
    rows = [{"name": "real train images", **evaluator.floor(args.num)}]
    print(f"evaluator: {describe(evaluator.identity)}; {evaluator.accuracy:.1%} of the held-out images right")
    if asked := args.sampler.asked():
        print(f"sampled with {', '.join(f'{name} {value}' for name, value in asked.items())}")
    if len(set(shares_of_classes(config))) > 1:
        print(f"drawn: {drawn_as(config)}")
    print(header(COLUMNS))
    print(line(rows[-1], COLUMNS), flush=True)
    for (run, sampler), samples in zip(todo, drawn, strict=True):
        assert samples is not None  # this is the first process
        rows.append(described(run, sampler, samples.nfe, args.num / samples.seconds))
        rows[-1] |= {"energy": float(samples.energy.mean())} | evaluator(samples.images, samples.labels)
        print(line(rows[-1], COLUMNS), flush=True)
        grid = _file(args, f"{run.name}-steps-{sampler.steps}")
        pictures.save_grid(samples.images[:GRID_IMAGES], args.run / "samples" / grid)
        strips.append(samples.images[:OVERVIEW_COLUMNS])
        titles.append(title_of(run, sampler))
    pictures.save_strips(strips, titles, args.run / "samples" / _file(args, "overview"))
    teacher, sampler = todo[0]
    finest = replace(sampler, steps=max(other.steps for run, other in todo if run is teacher))
    walked = generate(teacher, labels[:PATH_IMAGES], finest, *how, path=True)
    assert walked.path is not None  # it was asked for
    plots.save_trajectory(walked.path, walked.times, args.run / "samples" / _file(args, "trajectory"))
    report = {"num": args.num, "seed": args.seed, "drawn": drawn_as(config), "evaluator": evaluator.identity}
    report |= {"classifier_accuracy": evaluator.accuracy, "rows": rows}
    files.write_json(args.run / _file(args, "evaluation", ".json"), report)


def measure_with_inception(args: EvaluateArgs, config: "RunConfig") -> None:
    """Every process generates and measures its share of the images; the first one compares and writes."""
    from distillkac.evaluation import fidelity, inception, shares
    from distillkac.evaluation.tables import FIDELITY_COLUMNS, header, line
    from distillkac.runs import checkpoints
    from distillkac.runs.class_shares import drawn_as, reference_labels
    from distillkac.runs.run_data import RunData
    from distillkac.training.fit import accelerator_for

    fidelity.check_extra()
    accelerator = accelerator_for(config.optim)
    with accelerator.local_main_process_first():  # it downloads the weights for all of its machine
        extractor = inception.load_inception(inception.find_weights(args.inception)).to(accelerator.device)
    dataset = RunData(args.run, config, args.data).load_pixels(args.reference)
    reference = fidelity.Reference(dataset, args.reference, args.reference_num, extractor)
    if "precision-recall" in args.metrics and not 1 <= args.k < min(args.num, len(reference.rows)):
        raise ValueError(f"k must lie in [1, {min(args.num, len(reference.rows)) - 1}] for so few images, got {args.k}")
    protocol = {
        "reference": f"{len(reference.rows)} images of the {args.reference} split, not mirrored",
        "generated": f"{args.num} images, {drawn_as(config, args.reference)}",
        "seed": args.seed,
        "network": checkpoints.chosen_average(args.run) or f"moving average of the weights ({checkpoints.EMA})",
        "pixels": "uint8, grey repeated to RGB",
        "resize": extractor.resize,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "batch_size": args.batch_size,
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
    }
    if "kid" in args.metrics:
        protocol["kid"] = f"{fidelity.KID_SUBSETS} subsets of at most {fidelity.KID_SUBSET_SIZE} images, degree 3"
    if "precision-recall" in args.metrics:
        protocol["neighbours"] = args.k
    first = accelerator.is_main_process
    if first:
        fidelity.warn_of_few(args.metrics, args.num, len(reference.rows), extractor.num_features)
        print("\n".join(f"{name:18}{value}" for name, value in protocol.items()))
        print(header(FIDELITY_COLUMNS), flush=True)
    real = reference.features(args.run, args.batch_size, accelerator)
    labels, rows = reference_labels(config, args.num, args.reference), []
    for run, sampler in _networks(args, accelerator.device):
        how = (args.seed, args.batch_size)
        row, features = shares.features_of(run, labels, sampler, *how, extractor, accelerator)
        if first:
            rows.append(row | fidelity.measures(args.metrics, features, real, args.seed, args.k, accelerator.device))
            print(line(rows[-1], FIDELITY_COLUMNS), flush=True)
            files.write_json(args.run / _file(args, "fidelity", ".json"), {"protocol": protocol, "rows": rows})
        accelerator.wait_for_everyone()


def _rows(args: EvaluateArgs) -> list[tuple[Path, SamplerConfig]]:
    """What the rows of a table are: the run at its step counts, then its students."""
    from distillkac.evaluation.rows import rows_of

    return rows_of(args.run, args.teacher_steps, args.sampler, args.model)


def _networks(args: EvaluateArgs, device: "torch.device") -> "list[tuple[Run, SamplerConfig]]":
    """The rows with their networks; each is loaded once."""
    from distillkac.evaluation.rows import say_weights
    from distillkac.runs.run import open_run, say_if_another_teacher

    say_weights(rows := _rows(args), args.sampler)
    opened = {folder: open_run(folder, device) for folder, _ in rows}
    for folder in opened:
        say_if_another_teacher(folder)
    return [(opened[folder], sampler) for folder, sampler in rows]


if __name__ == "__main__":
    sys.exit(main())
