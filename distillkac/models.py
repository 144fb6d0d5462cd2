"""The models that come with distillkac: `python -m distillkac.models`, and `... digits` for a model card."""

import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from distillkac.base.commands import command, prog
from distillkac.base.options import parse
from distillkac.runs import shipped
from distillkac.runs.data_place import DataPlace


@dataclass(frozen=True)
class ModelsArgs:
    """Lists the models that come with distillkac: what they are, how they were made and how good they are."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None
    """One of them: prints its model card."""
    measure: bool = False
    """Draw and measure its images anew, beside the figures of its card; needs the images it learned, and a minute."""
    data: DataPlace = field(default_factory=DataPlace)


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(ModelsArgs, argv, prog("models"))
    from distillkac.evaluation import model_card  # torch only now, so that help and mistakes in options come at once

    known = shipped.index()
    if args.name is None:
        if args.measure or args.data.path is not None:
            raise ValueError(f"name the model that is to be measured: {', '.join(known)}")
        for name, entry in known.items():
            print("\n".join(model_card.lines(name, entry)) + "\n")
        print(f"draw from one: {prog('sample')} {next(iter(known))} --out grid.png")
        return 0
    if args.name not in known:
        raise ValueError(f"there is no model {args.name}; distillkac comes with {', '.join(known)}")
    if found := shipped.problems(args.name):
        raise ValueError(found[0])
    if args.measure:
        return measure(args.name, known[args.name], args.data)
    if args.data.path is not None:
        raise ValueError("--data.path says where images are that --measure needs: add it")
    print((shipped.FOLDER / args.name / shipped.CARD).read_text(encoding="utf-8"), end="")
    return 0


def measure(name: str, entry: dict[str, Any], place: DataPlace) -> int:
    """Prints the figures of the card and those of images that are drawn now. place: of the images that it learned."""
    from distillkac.evaluation import model_card, ship
    from distillkac.evaluation.metrics import Evaluator
    from distillkac.runs.config import load_config
    from distillkac.runs.run import default_network
    from distillkac.runs.run_data import RunData

    folder = shipped.FOLDER / name
    images = RunData(folder, load_config(default_network(folder)), place)
    evaluator = Evaluator(images.load_pixels("train"), images.load_pixels("test"))
    if evaluator.identity != entry["evaluator"]:
        raise ValueError("these images have another evaluator than the card's figures: they do not compare")
    rows = [row for row in entry["rows"] if row["name"].startswith("student")]
    now = ship.measured(folder, evaluator, entry["num"], entry["seed"])
    told = [row | {"name": row["name"] + word} for word, group in ((", card", rows), (", now", now)) for row in group]
    print("\n".join(model_card.table(told)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
