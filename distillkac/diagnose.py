"""The theory, measured on a run and its students: `python -m distillkac.diagnose runs/demo`."""

import sys

from distillkac.base.commands import command, prog
from distillkac.base.options import parse
from distillkac.evaluation.diagnosis_options import DiagnoseArgs
from distillkac.runs import shipped


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(DiagnoseArgs, argv, prog("diagnose"))
    shipped.refuse(args.run, "diagnose measures a teacher; train one: python -m distillkac.train")
    from distillkac.evaluation.diagnosis import (
        diagnose,  # torch only now, so that help and mistakes in options come at once
    )

    diagnose(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
