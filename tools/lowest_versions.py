"""The lowest versions that pyproject.toml allows, as constraints for pip: `python tools/lowest_versions.py > lowest.txt`.

`make test CONSTRAINTS=lowest.txt` then tests with them. Standard library only.
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest(dependencies: list[str]) -> list[str]:
    """name==version for each name>=version. Raises ValueError for a dependency that states anything else."""
    found = [re.fullmatch(r"([\w-]+)>=([\d.]+)", line) for line in dependencies]
    for line, match in zip(dependencies, found, strict=True):
        if match is None:
            raise ValueError(f"a dependency must be NAME>=VERSION, got {line!r}")
    return [f"{match[1]}=={match[2]}" for match in found if match]


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"])))
