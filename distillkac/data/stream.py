"""Hugging Face data sets that are read while they arrive, for those that are too large to download first.

A split is a number of shards that can be read from the front only. Laid end to end, in a new order every epoch, they make
one endless sequence of records. Its order within windows of `data.shuffle_buffer` records is shuffled, so which record
the j-th sample of a run is depends on the seed and j alone, as for every other source: runs resume in the middle of an
epoch, and any number of processes meet the same batches. The price: every process reads all of the stream, and
decodes only its own rows.
"""

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from distillkac.base.progress import Bar
from distillkac.base.random import generator
from distillkac.data import cache
from distillkac.data.config import DataConfig, Fingerprint
from distillkac.data.dataset import SPLIT_SEED
from distillkac.data.file_splits import find_files
from distillkac.data.protocol import Dataset
from distillkac.data.records import NAMED, file_identity, say_narrow
from distillkac.data.stream_shards import Record, StreamedSplit, held_per_shard, open_shards, stream_fingerprint

PROBED = 64  # images whose channels decide between grey and colour


class WindowOrder:
    """Like `SampleOrder`, of an endless stream: window after window, each shuffled."""

    def __init__(self, window: int, seed: int):
        self.window, self.seed = window, seed

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        parts = []
        while start < stop:
            number, first = divmod(start, self.window)
            shuffled = torch.randperm(self.window, generator=generator(self.seed, "order", number))
            parts.append(number * self.window + shuffled[first : first + stop - start])
            start += len(parts[-1])
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


class Stream(Dataset):
    """The training split as a data set without an end, see the module. Index i is record i of the endless sequence.

    held: how many records at the front of each shard are kept for evaluation. fingerprint: of both splits.
    """

    readers = most_readers = 1  # the batches follow the stream; decoding has threads of its own

    def __init__(self, shards: StreamedSplit, held: dict[int, int], config: DataConfig, fingerprint: Fingerprint):
        self.shards, self.held, self.config, self.fingerprint = shards, held, config, fingerprint
        self.class_names = shards.names
        self.shape = self._shape()
        # How many records of a shard there are to learn from, known once its end was seen; what is known need not be
        # read to be passed over.
        self.lengths, self._file = self._recall()
        self._records: Iterator[Record] = iter(())
        self._next = -1
        self._windows: dict[int, Future[list[Record]]] = {}
        self._lock = threading.Lock()
        self._left_out: set[str] = set()
        self._stopped = threading.Event()
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._decoders = ThreadPoolExecutor(min(32, os.cpu_count() or 1), thread_name_prefix="decode")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def order(self, seed: int) -> WindowOrder:
        return WindowOrder(self.config.shuffle_buffer, seed)

    def stop(self) -> None:
        """Gives up the windows that are on their way, at their next record: nobody waits for them any more, and a process
        does not end before its threads do. What is asked for later comes as before."""
        self._stopped.set()
        with self._lock:  # whoever waits for a window has let go of it
            self._windows.clear()
            self._stopped = threading.Event()

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """(x (n, C, H, W) uint8, y (n,) int64) of records i >= 0.

        Quick where the windows of the indices (of `data.shuffle_buffer` records) follow those of the call before; to go
        elsewhere, shards that were never read to their end are read up to there.
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        window = index.div(self.config.shuffle_buffer, rounding_mode="floor")
        x, y = torch.empty(len(index), *self.shape, dtype=torch.uint8), torch.empty(len(index), dtype=torch.int64)
        with self._lock:
            for number in window.unique().tolist():
                records, places = self._window(number), torch.nonzero(window == number).flatten()
                rows = (index[places] - number * len(records)).tolist()
                found = self._decoders.map(lambda row, records=records: self._decode(records, row), rows)
                for place, (image, label) in zip(places.tolist(), found, strict=True):
                    x[place], y[place] = torch.from_numpy(image), label
                if self.config.flip:
                    # A function of the index, like all else: an image is mirrored in about half of the epochs.
                    bits = torch.randint(2, (len(records),), generator=generator(SPLIT_SEED, "mirror", number))
                    mirrored = places[bits[rows] == 1]
                    x[mirrored] = x[mirrored].flip(-1)
        return x, y

    def _decode(self, records: list[Record], row: int) -> tuple[np.ndarray, int]:
        """The image and its class; a bad one's place is taken by the next of its window that can be read."""
        for record in (*records[row:], *records[:row]):
            try:
                image = record.decode(self.config, self.shape[0])
            except ValueError as error:
                if self.config.bad_images == "refuse":
                    raise
                self._leave_out(record.name, str(error))
                continue
            if image.shape[1:] != self.shape[1:]:
                raise ValueError(
                    f"{record.name}: is {image.shape[2]} x {image.shape[1]} but the first image is {self.shape[2]} x "
                    f"{self.shape[1]}; give --data.image-size to bring all images to one size"
                )
            return image, record.label
        raise ValueError(
            f"{records[row].name} and {len(records) - 1} images after it cannot be read; look at one of them"
        )

    def _leave_out(self, name: str, reason: str) -> None:
        if name not in self._left_out:
            self._left_out.add(name)
            if len(self._left_out) <= NAMED:
                warnings.warn(f"left out, number {len(self._left_out)}: {reason}", stacklevel=2)

    def _window(self, number: int) -> list[Record]:
        """Its records; the next window is then on its way."""
        future = self._windows.get(number) or self._fetcher.submit(self._fetch, number, self._stopped)
        self._windows = {k: v for k, v in self._windows.items() if k == number + 1} | {number: future}
        try:
            records = future.result()
        except BaseException:
            self._windows.clear()
            raise
        if number + 1 not in self._windows:
            self._windows[number + 1] = self._fetcher.submit(self._fetch, number + 1, self._stopped)
        return records

    def _fetch(self, number: int, stopped: threading.Event) -> list[Record]:
        """Runs in one thread only, which alone moves along the stream."""
        if number != self._next:
            self._records = self._from(number * self.config.shuffle_buffer)
        self._given_up = stopped.is_set
        self._next = -1  # unless all of the window comes
        records = list(islice(self._records, self.config.shuffle_buffer))
        self._next = number + 1
        return records

    def _from(self, place: int) -> Iterator[Record]:
        """The endless sequence from record `place` on."""
        epoch = 0
        while True:
            if len(self.lengths) == len(self.shards):
                epochs, place = divmod(place, sum(self.lengths.values()))
                epoch += epochs
            order = torch.randperm(len(self.shards), generator=generator(SPLIT_SEED, "shards", epoch)).tolist()
            for shard in order:
                known = self.lengths.get(shard)
                if known is not None and place >= known:
                    place -= known
                    continue
                # The length of a shard is found by reading all of it.
                count = 0 if known is None else place
                records, rest = self._wanted(shard, self.held.get(shard, 0) + count), place - count
                if rest > 0:
                    count += sum(1 for _ in Bar(islice(records, rest), title="passing over", unit="image", total=rest))
                for record in records:
                    yield record
                    count += 1
                self._learn(shard, count)
                place = max(0, place - count)
            epoch += 1

    def _wanted(self, shard: int, start: int) -> Iterator[Record]:
        """The records of a shard, as long as somebody waits for them."""
        for record in self.shards.read(shard, start):
            if self._given_up():
                raise CancelledError
            yield record

    def _learn(self, shard: int, count: int) -> None:
        if (known := self.lengths.get(shard)) not in (None, count):
            raise ValueError(
                f"{self.shards.where}: shard {shard} of the {self.shards.split} split has {count} images to learn from "
                f"where it had {known}: the data were changed, and this run would meet others than before; name a revision "
                f"(hf://NAME@REVISION), or remove {self._file} to go on all the same"
            )
        if known is None:
            self.lengths[shard] = count
            cache.remember(self._file, {"lengths": {str(shard): n for shard, n in self.lengths.items()}})

    def _recall(self) -> tuple[dict[int, int], Path]:
        path = Path(self.shards.where).expanduser()
        files = find_files(path, ".parquet", self.config) if path.exists() else []
        what = (self.shards.where, self.config.subset, self.shards.split, len(self.shards), sorted(self.held.items()))
        file, content = cache.recall(self.config, "stream 1", *map(str, what), *map(file_identity, files))
        known = content["lengths"] if content else {}
        return {int(k): n for k, n in known.items()} if any(known.values()) else {}, file

    def _shape(self) -> tuple[int, int, int]:
        images, reason = [], None
        for _, record in self.shards.first(PROBED, self.held):
            try:
                images.append(record.decode(self.config, self.config.channels))
            except ValueError as error:
                if self.config.bad_images == "refuse":
                    raise
                reason = error
        if not images:
            raise reason or ValueError(
                f"{self.shards.where}: no images are left to learn from beside {sum(self.held.values())} held out for "
                "evaluation; lower --data.eval-images"
            )
        low, high = min(int(image.min()) for image in images), max(int(image.max()) for image in images)
        say_narrow(self.shards.where, low, high, (0, 255))
        return (max(map(len, images)), *images[0].shape[1:])


def open_stream(path: str, config: DataConfig) -> Stream:
    """The training split, without an end. Raises ValueError naming the data set, see `read_arrow`."""
    train, test = open_shards(path, config)
    held = held_per_shard(train, test, config)
    stream = Stream(train, held, config, stream_fingerprint(path, config, train, test))
    train.check_classes(config.eval_images, held)  # now rather than when the run is evaluated
    return stream
