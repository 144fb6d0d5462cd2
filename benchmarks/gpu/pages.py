"""Empty pages for the tables of a trial on a CPU: the project's stay as they are. `python -m benchmarks.gpu.pages OUT`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    for page, mark in (("speed.md", "speed"), ("README.md", "speed-short")):
        (Path(sys.argv[1]) / page).write_text(f"<!-- {mark}:begin -->\n<!-- {mark}:end -->\n", encoding="utf-8")
