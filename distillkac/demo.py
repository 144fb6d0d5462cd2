"""Runs in a browser, few steps beside many: `python -m distillkac.demo runs/demo`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from distillkac.base.commands import command, prog
from distillkac.base.options import parse
from distillkac.base.ranges import in_ranges
from distillkac.runs import shipped


@dataclass(frozen=True)
@in_ranges("", port="[1, 65535]")
class DemoArgs:
    """Serves a page on which runs are sampled: steps side by side, guidance, classes, and the way from noise to image."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders, of teachers with their students or of one network, and names of models that come with distillkac; the page
    offers the choice. Without any, these models, and the first images are drawn as the page opens."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine only; 0.0.0.0 lets everybody in who can reach it."""
    port: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Port; by default the first free one from 7860."""


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(DemoArgs, argv, prog("demo"))
    from distillkac.runs.device import device  # torch only now, so that help and mistakes in options come at once
    from distillkac.web.engine import Demo

    demo = Demo(args.runs or tuple(map(Path, shipped.index())), device())
    from distillkac.web import page  # needs the extra, which is asked for only after the runs were found good

    server = page.serve(demo, args.host, args.port)
    print(f"{', '.join(demo.runs)}: {server.local_url} (Ctrl-C stops it)", flush=True)
    if not page.is_loopback(args.host):
        print(f"everybody who can reach {args.host} can use it: there is no password", flush=True)
    server.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
