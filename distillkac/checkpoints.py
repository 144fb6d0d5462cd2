"""The run folder: what it holds and how it is written so that a crash at any byte leaves the previous checkpoint.

    config.json          what the run is (config.py)
    model.safetensors    the raw weights        } exports of the last checkpoint, to load and to share
    ema.safetensors      their moving average   }
    state/training.pt    the whole checkpoint in one file: weights, average, optimizer, step; what --resume reads
    metrics.jsonl        one JSON object a line

Every file is written under a temporary name, fsynced and renamed. A checkpoint is one file, so weights and optimizer
of different steps never mix.
"""

import contextlib
import difflib
import io
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

CONFIG, MODEL, EMA = "config.json", "model.safetensors", "ema.safetensors"
STATE, METRICS = Path("state") / "training.pt", "metrics.jsonl"


def write_atomic(path: Path, content: bytes) -> None:
    """Replaces the file at `path` by `content`: after a crash it holds the old bytes or the new ones, never a mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself lives in the folder; some file systems cannot fsync a folder and need not.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value) -> None:
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def as_json(value):
    """The value as it would be read back: tuples become lists."""
    return json.loads(json.dumps(value))


def read_json(path: Path):
    """Raises ValueError naming the file if it is missing or no JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        near = _similar_runs(path.parent)
        meant = f"did you mean {near}?" if near else "train one with --run"
        raise ValueError(f"{path.parent} is no run folder: it has no {path.name}; {meant}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from None


def _similar_runs(folder: Path) -> str:
    """Run folders that may have been meant: those inside `folder`, and those beside it with a similar name."""
    inside, beside = ([path.parent for path in sorted(root.glob(f"*/{CONFIG}"))] for root in (folder, folder.parent))
    names = difflib.get_close_matches(folder.name, [path.name for path in beside])
    return " or ".join(str(path) for path in [*inside[:3], *(folder.parent / name for name in names)])


def save(folder: Path, step: int, model: dict, ema: dict, optimizer: dict, ema_updates: int) -> None:
    """Writes the checkpoint of `step`. model, ema: state dicts of tensors; optimizer: its state dict."""
    model, ema = ({k: v.detach().cpu().contiguous() for k, v in weights.items()} for weights in (model, ema))
    buffer = io.BytesIO()
    state = {"step": step, "model": model, "ema": ema, "optimizer": optimizer, "ema_updates": ema_updates}
    torch.save(state, buffer)
    # The state first: should we die before the exports, --resume goes on from here and writes them again.
    write_atomic(folder / STATE, buffer.getvalue())
    metadata = {"format": "pt", "step": str(step)}
    write_atomic(folder / MODEL, to_safetensors(model, metadata))
    write_atomic(folder / EMA, to_safetensors(ema, metadata))


def load_state(folder: Path) -> dict | None:
    """The dict that `save` wrote, tensors on the CPU; None if there is no checkpoint yet.

    Loaded with weights_only: the file cannot run code. Raises ValueError if it is damaged.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a checkpoint of distillkac, or damaged ({reason})") from None


def load_weights(folder: Path, name: str = EMA) -> tuple[dict, int]:
    """(state dict, step) of an exported file, the moving average by default. Raises ValueError naming the file."""
    path = folder / name
    if not path.exists():
        raise ValueError(f"{folder} has no {name} yet: the run has not saved a checkpoint; train it first")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, int((file.metadata() or {}).get("step", 0))  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged ({error})") from None


class MetricsLog:
    """metrics.jsonl, appended to line by line; on resume the lines after the checkpoint's step are dropped."""

    def __init__(self, folder: Path, step: int = 0):
        self.path = folder / METRICS
        kept = [line for line in self.read(folder) if line["step"] <= step] if step else []
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def append(self, values: dict) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(values) + "\n")

    @staticmethod
    def read(folder: Path) -> list[dict]:
        """The lines so far; a last line cut short by a crash is left out."""
        path, lines = folder / METRICS, []
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines
