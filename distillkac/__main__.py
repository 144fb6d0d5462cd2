"""`distillkac VERB ...`, the same as `python -m distillkac.VERB ...`.

Nothing but Python is imported before the verb is known: help and version come at once.
"""

import difflib
import importlib
import sys

from distillkac import __version__

VERBS = {
    "train": "train a flow on images, in a run folder",
    "adopt": "make a run of a model that diffusers saved",
    "distill": "distil a run into students of few steps",
    "sample": "draw images from a run, or from a model that is here already",
    "models": "list the models that come with distillkac",
    "evaluate": "measure a run and its students",
    "diagnose": "measure on a run what the theory claims",
    "compare": "compare processes and distillation methods over several seeds",
    "report": "put a run on one HTML page",
    "demo": "sample runs in a browser",
    "encode": "encode images into latents to train on",
    "export": "export a sampler as one graph",
    "doctor": "tell what is installed and whether it works",
}
COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")


def main(argv: list[str] | None = None) -> int:
    """Runs a verb; returns its exit code, 2 for one that does not exist."""
    argv = sys.argv[1:] if argv is None else argv
    first = argv[0] if argv else ""
    if first in VERBS:
        return importlib.import_module(f"distillkac.{first}").main(argv[1:])
    if first in ("-h", "--help", "--version") and argv[1:]:
        print(
            f"error: {first} stands alone, got {' '.join(argv[1:])} after it; distillkac VERB --help helps with a verb",
            file=sys.stderr,
        )
        return 2
    if first in ("-h", "--help"):
        print(usage())
        return 0
    if first == "--version":
        print(f"distillkac {__version__}")
        return 0
    if first in COMPLETION:
        return complete(argv)
    if not first:
        print(usage(), file=sys.stderr)
        return 2
    near = difflib.get_close_matches(first.lstrip("-"), VERBS, 1)
    hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}"
    print(f"error: there is no verb {first}; {hint}", file=sys.stderr)
    return 2


def usage() -> str:
    lines = [f"  {verb:10}{what}" for verb, what in VERBS.items()]
    return "\n".join(
        (
            "usage: distillkac VERB [options]     (or python -m distillkac.VERB [options])",
            "",
            "Trains, guides, distils and samples finite-speed (Kac) image generators.",
            "",
            *lines,
            "",
            "distillkac VERB --help      the options of a verb",
            "distillkac --version        the version",
            f"distillkac {COMPLETION[0]} bash     completion of verbs and options; also zsh and tcsh",
        )
    )


def complete(argv: list[str]) -> int:
    """Prints or writes tyro's completion script for all verbs and their options."""
    import dataclasses

    import tyro

    kinds = {}
    for verb in VERBS:
        module = importlib.import_module(f"distillkac.{verb}")
        # The doctor has no options.
        kinds[verb] = getattr(module, f"{verb.title()}Args", dataclasses.make_dataclass("NoArgs", ()))
    tyro.extras.subcommand_cli_from_dict(kinds, prog="distillkac", args=argv)  # which exits
    return 0


if __name__ == "__main__":
    sys.exit(main())
