"""What students learn from: the images of their teacher, or none, where the plan asks for none."""

from dataclasses import replace
from pathlib import Path

import torch

from distillkac.data import DataConfig, Dataset, ImageDataset
from distillkac.data.fingerprint import difference
from distillkac.data.given import checked
from distillkac.distillation.stages import DistillConfig
from distillkac.runs.config import RunConfig
from distillkac.runs.data_place import DataPlace
from distillkac.runs.run import Run
from distillkac.runs.run_data import NO_IMAGES, RunData, check_place


def images_for(
    folder: Path, run: RunConfig, plan: DistillConfig, out: Path, place: DataPlace | None = None
) -> tuple[Dataset, DataConfig]:
    """The images of a teacher's run, and where they are. out: folder of the students. place: as of RunData.

    Of a run that was adopted without its images, all of them are black: a plan that learns from noise alone never looks at one.
    Raises ValueError if it does, or if the students would come among the images.
    """
    if run.data.path != NO_IMAGES or (place is not None and place.path is not None):
        images = RunData(folder, run, place)
        check_place(out, images.data.path, "--out")
        return images.load_training(), images.data
    if (needed := learns_from_images(plan)) is not None:
        raise ValueError(
            f"{folder} was adopted without the images that it was trained on, and {needed} learns from them: say with "
            "--data.path where they are (in Python give dataset), or learn from noise alone, "
            "by --method pairs or --backward 1 (inverse distillation: "
            "inverse.alpha and inverse.beta 1, and inverse.backward 1 in several steps)"
        )
    black = torch.zeros(1, *run.shape, dtype=torch.float32).expand(len(run.class_names), *run.shape)
    return ImageDataset(black, torch.arange(len(run.class_names)), run.class_names), run.data


def given_images(run: Run, dataset: Dataset | None, plan: DistillConfig, out: Path) -> tuple[Dataset, RunConfig]:
    """What the students of `distill`, in `out`, learn from, and the config of the teacher that knows it. Raises ValueError for
    other images than those that the teacher was trained on."""
    if dataset is None:
        dataset, place = images_for(run.folder, run.config, plan, out)
        return dataset, replace(run.config, data=place, fingerprint=dataset.fingerprint)
    _, known = checked(dataset)
    names, names_now = run.config.class_names, tuple(dataset.class_names)
    if tuple(dataset.shape) != tuple(run.config.shape):
        raise ValueError(f"{run.folder} was trained on images {run.config.shape}, these are {tuple(dataset.shape)}")
    if (problem := difference(run.config.fingerprint or known, names, known, names_now)) is not None:
        raise ValueError(f"not the images that {run.folder} was trained on: {problem}")
    return dataset, replace(run.config, fingerprint=known)


def learns_from_images(plan: DistillConfig) -> str | None:
    """The option by which a plan looks at images; None if all that it learns from is noise."""
    if plan.exact_start:
        return "exact_start"
    inverse = plan.inverse
    if inverse.steps and (inverse.alpha < 1 or (inverse.num_steps > 1 and inverse.backward < 1)):
        return "inverse distillation"
    if plan.method == "pairs" and plan.pairs.by == "consistency":
        return "pairs.by consistency"
    if len(plan.stages) > 1 and plan.method != "pairs" and plan.backward < 1:
        return f"method {plan.method}"
    return None
