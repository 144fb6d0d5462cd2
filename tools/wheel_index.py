"""The index of the CUDA wheels: pages that pip reads, with links to the files of the GitHub releases.

PyPI takes no version with a label such as +cu130, so these wheels lie beside the releases and are found by

    pip install distillkac --extra-index-url ADDRESS-OF-THE-SITE/whl/cu130

`python tools/wheel_index.py FOLDER < LINES` writes FOLDER/cu130/distillkac/index.html (the simple repository API) from lines
of name, address and digest ("sha256:..."), separated by tabs, as .github/workflows/docs.yml asks GitHub for them. Files that
are no wheels with a label are passed over: they are on PyPI.
"""

import html
import re
import sys
from collections.abc import Iterable
from pathlib import Path

WHEEL = re.compile(r"distillkac-[\d.]+\+(?P<label>[a-z0-9]+)-[\w.-]+\.whl")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
PAGE = (
    '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{title}</title></head><body>\n{links}\n</body></html>\n'
)


def links(lines: Iterable[str]) -> dict[str, list[str]]:
    """For each label the links of its wheels, sorted by name. Raises ValueError for a wheel without a digest."""
    found: dict[str, list[str]] = {}
    for line in sorted(lines):
        name, address, digest = [*line.rstrip("\n").split("\t"), "", ""][:3]
        if not (wheel := WHEEL.fullmatch(name)):
            continue
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"{name} must come with its sha256, got {digest!r}")
        target = html.escape(f"{address}#{digest.replace(':', '=')}")
        found.setdefault(wheel["label"], []).append(
            f'<a href="{target}" data-requires-python="&gt;=3.11">{html.escape(name)}</a><br>'
        )
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    for label, wheels in links(sys.stdin).items():
        project = folder / label / "distillkac"
        project.mkdir(parents=True, exist_ok=True)
        (project / "index.html").write_text(PAGE.format(title="distillkac", links="\n".join(wheels)), encoding="utf-8")
        root = '<a href="distillkac/">distillkac</a>'
        (folder / label / "index.html").write_text(PAGE.format(title=label, links=root), encoding="utf-8")


if __name__ == "__main__":
    main()
