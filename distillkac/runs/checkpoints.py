"""The run folder: what it holds, so that a crash at any byte leaves the previous checkpoint.

    config.json          what the run is (config.py)
    model.safetensors    the raw weights        } exports of the last checkpoint, to load and to share
    ema.safetensors      their moving average   }
    state/training.pt    the whole checkpoint in one file: weights, average, optimizer, step; what --resume reads
    metrics.jsonl        one JSON object a line

    .lock                held by the process that trains (lock.py)
    failure/             the state before a step whose loss was not finite (training/failure.py)
    checkpoints/step-N/  with --optim.keep above 1: earlier checkpoints, each a run folder of its own (kept.py)
    best/                with --optim.measure-every: that of the least Fréchet distance, a run folder too (kept.py)
    averages/            with --optim.averages: snapshots of further averages (training/averages.py)

Every file is written whole or not at all (files.py). A checkpoint is one file, so weights and optimizer of different steps
never mix. What is read is checked first, for its checksum, its form and NaN: each refusal names the file and the entry.
"""

import contextlib
import difflib
import hashlib
import io
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as _to_safetensors

from distillkac.base import files
from distillkac.runs import packed, shipped
from distillkac.runs.checkpoint_checks import check_archive, check_state, check_tensors, is_finite

CONFIG, MODEL, EMA = "config.json", "model.safetensors", "ema.safetensors"
ORIGINAL = "ema-original.safetensors"
"""The moving average, where `evaluate --keep-best` has put another average in its place."""
PIPELINE = "model_index.json"  # of what KacPipeline.save_pretrained writes
STATE, METRICS = Path("state") / "training.pt", "metrics.jsonl"
FORMAT = 4
"""Of config.json and the checkpoint; raised when an older version could misread them. 1: no number, no digests. Up to 2:
paths of data as they were typed, no fingerprint of the data, none of a student's teacher; and the group norms of narrow
networks had one channel a group. Up to 3: the U-Net had no patches, whatever network.patch said (network_config.of_format)."""


def begun(folder: Path) -> bool:
    """Whether the folder holds anything of a run."""
    return any((folder / name).exists() for name in (CONFIG, STATE, EMA))


def similar_runs(folder: Path) -> str:
    """Runs that may have been meant: inside `folder`, beside it with a similar name, or shipped."""
    inside, beside = ([path.parent for path in sorted(root.glob(f"*/{CONFIG}"))] for root in (folder, folder.parent))
    names = difflib.get_close_matches(folder.name, [path.name for path in beside])
    models = difflib.get_close_matches(str(folder), shipped.names())  # "digit" for digits
    return " or ".join(str(path) for path in [*inside[:3], *(folder.parent / name for name in names), *models])


def instead_of_run(folder: Path) -> str:
    """What a place is that is no run folder, and what to do."""
    if (folder / PIPELINE).exists():
        return f"it is a saved pipeline ({PIPELINE}); load it in Python, KacPipeline.from_pretrained({str(folder)!r})"
    if folder.is_file():
        return "it is a file; name the folder that train or distill wrote"
    if near := similar_runs(folder):
        return f"it has no {CONFIG}; did you mean {near}?"
    if (folder.parent / CONFIG).exists():
        return f"it has no {CONFIG}; students of {folder.parent} are made by python -m distillkac.distill"
    return f"it has no {CONFIG}; train one: python -m distillkac.train --run {shlex.quote(str(folder))}"


def check_format(path: Path | str, found) -> None:
    """Raises ValueError if the file at `path`, of format `found`, is of a later version than this."""
    if type(found) is not int or found < 1:
        raise ValueError(f"{path}: format must be a whole number of at least 1, got {found!r}")
    if found > FORMAT:
        raise ValueError(
            f"{path}: has format {found}, of a later version of distillkac; this one reads formats 1 to {FORMAT}. Update it"
        )


def save(
    folder: Path, step: int, model: dict, ema: dict, optimizer: dict, ema_updates: int, averages: dict | None = None
) -> None:
    """Writes the checkpoint of `step`. model, ema: state dicts of tensors; optimizer: its state dict. averages: of further
    averages by name their weights.

    Raises FloatingPointError, and writes nothing, if a weight is not finite: such a checkpoint would be of no use.
    """
    model, ema = ({k: v.detach().cpu().contiguous() for k, v in weights.items()} for weights in (model, ema))
    for name, value in [*model.items(), *ema.items()]:
        if not is_finite(value):
            raise FloatingPointError(f"{folder}: {name} is not finite at step {step}; the last checkpoint is kept")
    buffer = io.BytesIO()
    # Equal names are one object, as in a run that was never interrupted: pickle writes such a name once.
    moments = {n: {sys.intern(name): v for name, v in values.items()} for n, values in optimizer["state"].items()}
    optimizer = optimizer | {"state": moments}
    state = {"format": FORMAT, "step": step, "model": model, "ema": ema}
    state |= {"optimizer": optimizer, "ema_updates": ema_updates}
    if averages:
        state["averages"] = {
            n: {k: v.detach().cpu().contiguous() for k, v in own.items()} for n, own in averages.items()
        }
    torch.save(state, buffer)
    # The state first: should we die before the exports, --resume writes them again.
    files.write_atomic(folder / STATE, buffer.getvalue())
    export(folder, step, model, ema)


def export(folder: Path, step: int, model: dict, ema: dict) -> None:
    """Writes model.safetensors and ema.safetensors, with their step and the digest of their content."""
    for name, weights in ((MODEL, model), (EMA, ema)):
        metadata = {"format": "pt", "step": str(step), "digest": digest_of(step, weights)}
        files.write_atomic(folder / name, to_safetensors(weights, metadata))


def to_safetensors(weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file. The same weights and metadata give the same bytes: the library writes metadata in an order that
    is another in every process."""
    content = _to_safetensors(weights, metadata)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(metadata.items()))
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % 8)  # the tensors behind it stay aligned
    return len(written).to_bytes(8, "little") + written + content[8 + size :]


def described(folder: Path) -> tuple[int, str] | None:
    """(step, digest) of the averaged weights of a run folder, None if there are none. What their file says of itself is
    believed, which spares reading it; files of the first format say nothing. Raises ValueError as `load_weights`."""
    if not (folder / EMA).exists():
        return None
    with contextlib.suppress(SafetensorError, OSError), open_safetensors(folder / EMA) as file:
        metadata = file.metadata() or {}
        if "digest" in metadata and metadata.get("step", "").isdecimal():
            return int(metadata["step"]), metadata["digest"]
    weights, step = load_weights(folder)
    return step, digest_of(step, weights)


def chosen_average(folder: Path) -> str | None:
    """Name of the average that `evaluate --keep-best` has put in the place of a run's moving average; None if none was."""
    with contextlib.suppress(SafetensorError, OSError), open_safetensors(folder / EMA) as file:
        return (file.metadata() or {}).get("average")
    return None


def exported(folder: Path, step: int) -> bool:
    """Whether both exports are whole and of this step."""
    try:
        return all(load_weights(folder, name)[1] == step for name in (MODEL, EMA))
    except ValueError:
        return False


def load_state(folder: Path) -> dict | None:
    """The dict that `save` wrote, tensors on the CPU; None if there is no checkpoint yet.

    Loaded with weights_only: the file cannot run code. Raises ValueError if it is damaged, of a later version, or holds
    values that are not finite.
    """
    path = folder / STATE
    if not path.exists():
        return None
    files.check_readable(path)
    try:
        files.check_ordinary(path)
        with open(path, "rb") as file:
            check_archive(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: not a checkpoint of distillkac, or damaged ({reason})") from None
    if isinstance(state, dict):
        check_format(path, state.get("format", 1))
    check_state(path, state)
    return state


def load_weights(folder: Path, name: str = EMA, expected: dict[str, torch.Tensor] | None = None) -> tuple[dict, int]:
    """(state dict, step) of an exported file, the moving average by default.

    expected: a state dict that it must fit, of meta tensors, say. Raises ValueError naming the file and the entry.
    """
    path = folder / name
    if not path.exists():
        raise ValueError(f"{folder} has no {name} yet: the run has not saved a checkpoint; train it first")
    files.check_readable(path)
    try:
        files.check_ordinary(path)
        weights, metadata = read_safetensors(path)
        if packed.MARK in metadata:
            weights = packed.unpack(weights, metadata)
        step = int(metadata.get("step", 0))
        if "digest" in metadata and metadata["digest"] != digest_of(step, weights):
            raise ValueError("its digest is another than when it was written")
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged ({error})") from None
    if expected is not None:
        check_fit(path, weights, expected)
    check_tensors(path, weights)
    return weights, step


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, metadata) of a file. Raises SafetensorError or OSError."""
    with open_safetensors(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_cached(path: Path, **about: str) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
    """The same of a file that only spares work; None unless it is whole and its metadata say what `about` says."""
    try:
        tensors, metadata = read_safetensors(path)
    except (OSError, SafetensorError):
        return None
    return (tensors, metadata) if about.items() <= metadata.items() else None


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[safe_open]:
    """A safetensors file, whatever the folders above it are called: the library takes no name that is not UTF-8. Raises
    SafetensorError or OSError."""
    with open(path, "rb") as opened:
        name = str(path)
        try:
            name.encode()
        except UnicodeEncodeError:
            name = f"/dev/fd/{opened.fileno()}"
        with safe_open(name, framework="pt") as file:
            yield file


def check_fit(path: Path, weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Raises ValueError naming an entry that is missing, unknown or of another shape or dtype than in `expected`."""

    def told(value):
        return "nothing" if value is None else f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")

    for name in [*expected, *weights]:
        found, wanted = told(weights.get(name)), told(expected.get(name))
        if found != wanted:
            raise ValueError(
                f"{path}: does not fit the network of {CONFIG}: {name} should be {wanted}, and the file has {found}"
            )


def digest_of(step: int, weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(str(step).encode(), digest_size=16)
    for name in sorted(weights):
        value = weights[name].contiguous()
        digest.update(f"\0{name}\0{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class MetricsLog:
    """metrics.jsonl, appended to line by line; on resume the lines after the checkpoint's step are dropped."""

    def __init__(self, folder: Path, step: int = 0):
        self.path = folder / METRICS
        kept = [line for line in self.read(folder) if line["step"] <= step] if step else []
        files.write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def append(self, values: dict, durable: bool = False) -> None:
        """durable: wait until it is on the disk. Before a checkpoint, whose lines are not written again on resume."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
                if durable:
                    files.flush_to_disk(file)
        except OSError as error:
            raise files.unwritable(self.path, error) from error

    @staticmethod
    def read(folder: Path) -> list[dict]:
        """The lines so far, without any that is damaged, such as a last line cut short by a crash."""
        path, lines = folder / METRICS, []
        for line in path.read_text(errors="replace", encoding="utf-8").splitlines() if path.is_file() else ():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]

    @staticmethod
    def compared(lines: list[dict]) -> list[dict]:
        """Of lines the measurements that compare with the last one, by as many images: among these RUN/best was chosen."""
        measured = [line for line in lines if "measured" in line]
        return [line for line in measured if line["measured"].get("images") == measured[-1]["measured"].get("images")]
