"""Where things are, for tests in any room."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, CSRC = ROOT / "distillkac", ROOT / "csrc"
GOLDEN = json.loads((ROOT / "tests" / "golden" / "telegraph.json").read_text())["rows"]
