"""The teacher's paths from pure noise, stored: what students of pairs learn from, made ahead of them in the background.

A path is the way of one image from noise to the teacher's end, kept at the times of a student. Its noise, class and guidance
weight follow from (seed, number of the path) and are not stored; the states are half precision, in files of FILE_ROWS paths
that are read through memory maps. A file is written whole or not at all and never changes, so students, processes and
resumed runs share them.
"""

import hashlib
import threading
import time
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillkac.base import files
from distillkac.base.random import derive_seed, uniform_rows
from distillkac.base.tensors import sent
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.integrators import Method, integrate, time_grid
from distillkac.flow.processes import Process
from distillkac.runs.device import fast_products

FILE_ROWS = 512
ABOUT = "paths.json"
CPU_PIXELS, GPU_PIXELS = 8192, 2**19  # of one network evaluation: more at once is no faster
CHECK = 4  # bytes of a CRC-32 at the end of a file
SECONDS = 0.02  # between two looks for a file that another thread or process makes


@dataclass(frozen=True)
class PathsConfig:
    """What decides the paths; a folder's is its paths.json.

    teacher: digest of the weights of the network that makes them. process: its `to_dict`. shape: (C, H, W). classes: path i
    is of class i mod classes. num_steps, rho, shift, integrator: of the grid from t = 1 to 0. num_states: how many states are
    kept after the noise, num_steps / num_states steps apart. w: guidance folded in; w_max: if set, every path has a weight of
    its own in [0, w_max]. means: digest of the class means that an exact start takes, None without one. precision: in which the
    network was evaluated (optim.precision).
    """

    teacher: str
    process: dict[str, Any]
    shape: tuple[int, int, int]
    classes: int
    num_steps: int
    num_states: int
    rho: float
    integrator: Method
    w: float
    w_max: float | None
    means: str | None
    seed: int
    shift: float = 1.0
    precision: str = "no"

    @property
    def name(self) -> str:
        """Of its folder: other paths have another name."""
        facts = asdict(self)
        for name in ("shift", "precision"):  # the usual is not told, as before there were others: paths are found again
            if facts[name] == getattr(PathsConfig, name):
                del facts[name]
        return f"paths-{self.num_steps}-{derive_seed(0, str(files.as_json(facts))):016x}"


def digest_of_means(means: torch.Tensor | None) -> str | None:
    return None if means is None else hashlib.sha256(means.cpu().numpy().tobytes()).hexdigest()[:16]


def rows_at_once(shape: tuple[int, int, int], device: torch.device) -> int:
    """Paths that are made together: FILE_ROWS of small images, fewer of large ones."""
    pixels = CPU_PIXELS if device.type == "cpu" else GPU_PIXELS
    return min(FILE_ROWS, max(1, pixels // (shape[1] * shape[2])))


class Paths:
    """The first `count` paths of a folder.

    velocity: the teacher's field, on `device`. rank, ranks: of this process; file j is made by process j mod ranks, or by one
    that has made its own. A thread begins to make what is not there as the first rows are asked for, in the order of their
    numbers; `close` ends it.
    """

    def __init__(
        self,
        folder: Path,
        config: PathsConfig,
        count: int,
        velocity: GuidedVelocity,
        process: Process,
        device: torch.device,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.folder, self.config, self.count = folder / config.name, config, count
        self._velocity, self._process, self._device, self._rank, self._ranks = velocity, process, device, rank, ranks
        self._numbers = range(-(-count // FILE_ROWS))
        self._maps: dict[int, np.ndarray[Any, Any]] = {}
        self._stop = threading.Event()
        self._maker: threading.Thread | None = None
        self._problem: BaseException | None = None

    def __call__(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(states (num_states + 1, n, C, H, W), classes (n,), guidance weights (n,) or None) of the paths of these numbers
        (n,), on the CPU, noise first. Waits for those that are yet to be made; raises what keeps them from being made."""
        states = torch.empty(self.config.num_states, len(index), *self.config.shape, dtype=torch.float32)
        numbers, places = index // FILE_ROWS, index % FILE_ROWS
        for number in numbers.unique().tolist():
            mine = (numbers == number).nonzero().flatten()
            states[:, mine] = torch.from_numpy(self._map(number)[:, places[mine].numpy()]).float()
        begun = [self._noise(range(i, i + 1)) for i in index.tolist()]
        noise = torch.cat([x for x, _, _ in begun])
        y = torch.cat([y for _, y, _ in begun])
        w = None if self.config.w_max is None else torch.cat([w for _, _, w in begun if w is not None])
        return torch.cat([noise[None], sent(states, self._device)]), y, w

    def close(self) -> None:
        """Ends the making, after the rows that the network walks now."""
        self._stop.set()
        if self._maker is not None:
            self._maker.join()

    def _noise(self, rows: range) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(noise, classes, guidance weights or None) where these paths begin."""
        config, device = self.config, self._device
        x = self._process.prior(len(rows), config.shape, derive_seed(config.seed, "path"), rows.start, device)
        y = torch.arange(rows.start, rows.stop, device=device) % config.classes
        if config.w_max is None:
            return x, y, None
        drawn = uniform_rows(len(rows), (1,), derive_seed(config.seed, "path w"), rows.start).flatten()
        return x, y, config.w_max * sent(drawn, device)

    def _path_of(self, number: int) -> Path:
        return self.folder / f"states-{number:06d}.npy"

    def _map(self, number: int) -> "np.ndarray[Any, Any]":
        """The states in a file, (num_states, FILE_ROWS, C, H, W) float16. Raises ValueError if they are not that."""
        if number in self._maps:
            return self._maps[number]
        path = self._path_of(number)
        while not path.exists():
            if self._maker is None:
                self._begin()
            if self._problem is not None:
                raise self._problem
            time.sleep(SECONDS)
        if (found := self._read(path)) is None:
            raise ValueError(f"{path} is damaged: remove it, and it is made again")
        self._maps[number] = found
        return found

    def _read(self, path: Path) -> "np.ndarray[Any, Any] | None":
        """The states in a file, mapped; None if it is not one of these paths, as it was written."""
        with path.open("rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                first, whole = file.tell(), np.memmap(file, np.uint8, mode="r")
            except (ValueError, EOFError):
                return None
        last = len(whole) - CHECK
        known = (self.config.num_states, FILE_ROWS, *self.config.shape)
        size = 2 * int(np.prod(known))
        if (version, shape) != ((1, 0), known) or dtype != np.float16 or last - first not in (size, size - CHECK):
            return None
        # Those of earlier versions have no check.
        if last - first == size and self._check(path, whole[first:last]) != whole[last:].tobytes():
            return None
        return whole[first : first + size].view(np.float16).reshape(known)

    def _check(self, path: Path, states: "np.ndarray[Any, Any]") -> bytes:
        """What follows the states in a file: of these bytes, in this file of this folder."""
        name = zlib.crc32(f"{self.folder.name}/{path.name}".encode())
        return zlib.crc32(states.data, name).to_bytes(CHECK, "little")

    def _begin(self) -> None:
        if self._rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_json(self.folder / ABOUT, asdict(self.config), shared=True)
            there = sum(self._path_of(number).exists() for number in self._numbers)
            size = len(self._numbers) * FILE_ROWS * self.config.num_states * 2 * np.prod(self.config.shape)
            print(
                f"paths of {self.config.num_steps} steps: {min(there * FILE_ROWS, self.count)} of {self.count} are there; the "
                f"others are made meanwhile, in {self.folder} ({size / 2**20:.0f} MiB in all)",
                flush=True,
            )
        self._maker = threading.Thread(target=self._make_all, daemon=True)
        self._maker.start()

    def _make_all(self) -> None:
        try:
            stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
            with torch.no_grad(), torch.cuda.stream(stream):
                mine = self._numbers[self._rank :: self._ranks]
                # Then those of the others, from the end, where they come last: whoever waits for one that failed gets it, or
                # fails as well, instead of waiting for ever.
                for number in (*mine, *reversed([i for i in self._numbers if i not in mine])):
                    if not self._path_of(number).exists() and not self._make(number):
                        return
        except BaseException as error:  # whatever it is, the training that waits for paths must end too
            self._problem = error

    def _make(self, number: int) -> bool:
        """Writes one file; False if the making was ended before it was whole."""
        if (states := self._taken(number)) is None and (states := self._integrated(number)) is None:
            return False
        if not torch.isfinite(states).all():
            raise FloatingPointError("the teacher's paths from noise are not finite: distil one whose samples are")
        place = self._path_of(number)
        place.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(place, shared=True) as file:  # another student's distillation may be making it too
            np.save(file, states.numpy())
            file.write(self._check(place, states.numpy()))
        return True

    def _taken(self, number: int) -> torch.Tensor | None:
        """The states of one file out of a folder beside this one that keeps more of the same paths; None without one."""
        steps, kept = self.config.num_steps, self.config.num_states
        for more in range(2 * kept, steps + 1, kept):
            if steps % more:
                continue
            config = replace(self.config, num_states=more)
            other = Paths(self.folder.parent, config, self.count, self._velocity, self._process, self._device)
            path = other._path_of(number)
            if path.exists() and (found := other._read(path)) is not None:
                return torch.from_numpy(found[more // kept - 1 :: more // kept].copy())
        return None

    def _integrated(self, number: int) -> torch.Tensor | None:
        """The states of one file, by the teacher; None if the making was ended meanwhile."""
        config, first = self.config, number * FILE_ROWS
        size = rows_at_once(config.shape, self._device)
        grid = time_grid(config.num_steps, config.rho, config.shift, self._process)
        every, parts = config.num_steps // config.num_states, []
        for start in range(first, first + FILE_ROWS, size):
            if self._stop.is_set():
                return None
            x, y, w = self._noise(range(start, min(start + size, first + FILE_ROWS)))
            if w is not None:
                self._velocity.w = w
            with fast_products(self._device):
                path = integrate(self._velocity, x, y, grid, config.integrator, path=True)
            parts.append(path[every::every].half().cpu())
        return torch.cat(parts, 1)
