"""What the release workflow asks: does a tag name this version, what is new in it, and a version for wheels of one CUDA.

    python tools/release.py check v0.1.0     # refuses a tag that is not what the package, CITATION.cff and the changelog say
    python tools/release.py notes            # this version's section of CHANGELOG.md
    python tools/release.py local cu130      # __version__ becomes 0.1.0+cu130 in this tree: the version of a CUDA wheel

Standard library only: it runs before anything is installed.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
CITED = re.compile(r'^version: "?([^"\s]+)"?$', re.MULTILINE)


def stated(pattern: re.Pattern[str], path: Path) -> str:
    """The one value that `pattern` finds in a file."""
    found = pattern.findall(path.read_text(encoding="utf-8"))
    if len(found) != 1:
        raise ValueError(f"{path} must state its version once, found {len(found)}")
    return found[0]


def version(root: Path) -> str:
    return stated(VERSION, root / "distillkac" / "__init__.py")


def notes(root: Path, wanted: str) -> str:
    """The section of the changelog under `## [wanted] - YYYY-MM-DD`, without its heading."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(
        rf"^## \[{re.escape(wanted)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## \[|\Z)", text, re.MULTILINE | re.DOTALL
    )
    if section is None or not section[1].strip():
        raise ValueError(
            f"CHANGELOG.md has no text under '## [{wanted}] - YYYY-MM-DD'; name what is under [Unreleased] so before the tag"
        )
    return section[1].strip() + "\n"


def check(root: Path, tag: str) -> None:
    """Raises ValueError unless everything that states a version states that of the tag, vX.Y.Z."""
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        raise ValueError(f"a release's tag is vX.Y.Z, got {tag!r}")
    told = {"distillkac.__version__": version(root), "CITATION.cff": stated(CITED, root / "CITATION.cff")}
    for where, what in told.items():
        if what != tag[1:]:
            raise ValueError(f"the tag {tag} is not the version {what} of {where}; set it and tag the commit that does")
    notes(root, tag[1:])


def set_local(root: Path, label: str) -> str:
    """Writes the local version X.Y.Z+label into the package; returns it. pip prefers it to X.Y.Z where it finds both."""
    public = version(root)
    if not re.fullmatch(r"[a-z0-9]+", label) or "+" in public:
        raise ValueError(
            f"cannot add the label {label!r} to version {public}: wanted letters and digits, and no label yet"
        )
    path = root / "distillkac" / "__init__.py"
    path.write_text(
        VERSION.sub(f'__version__ = "{public}+{label}"', path.read_text(encoding="utf-8")), encoding="utf-8"
    )
    return version(root)


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("tag")
    commands.add_parser("notes")
    commands.add_parser("local").add_argument("label")
    options = parser.parse_args(argv)
    try:
        if options.command == "check":
            check(root, options.tag)
            print(f"{options.tag} is {version(root)}, with a section in the changelog")
        elif options.command == "notes":
            print(notes(root, version(root)), end="")
        else:
            print(set_local(root, options.label))
    except ValueError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
