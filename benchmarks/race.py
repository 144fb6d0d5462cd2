"""How everything here is timed: ours and its rivals take turns in one run; medians and their ratios are kept.

In every round each rival is timed once and then ours, so a machine that changes its pace does so for all of them. A call
shorter than LOOP is repeated within a timing, for ours and rivals alike. Whoever is slow runs in the first rounds only,
until it has used up its seconds. On CUDA a timing begins and ends with an idle device.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

LOOP = 1e-3  # seconds that one timing lasts at least
ROUNDS = 25
LEAST_ROUNDS = 3
SECONDS = 0.5  # that one contender may use, beyond its LEAST_ROUNDS


@dataclass(frozen=True)
class Rival:
    """A competitor. call: what is timed. bar: the least ratio rival / ours asked for, by SIMD level; none by default.

    prepare: done before each timing of the rival, untimed.
    """

    call: Callable[[], object]
    bar: dict[str, float] | None = None
    prepare: Callable[[], object] = lambda: None


def at_least(avx512: float, avx2: float | None = None) -> dict[str, float]:
    """Ours shall be this many times as fast."""
    return {"avx512": avx512, "avx2": avx512 if avx2 is None else avx2}


def at_most(avx512: float, avx2: float | None = None) -> dict[str, float]:
    """Ours shall take at most this many times as long."""
    return {level: 1 / times for level, times in at_least(avx512, avx2).items()}


class Watch:
    """Times one contender in loops of `calls` calls, for at most `rounds` rounds."""

    def __init__(self, rival: Rival, cuda: bool, rounds: int, seconds: float):
        self.rival, self.cuda, self.calls, self.times = rival, cuda, 1, []
        self.time()  # the first call finds its code and memory
        once = self.times.pop()
        if once < seconds:
            self.time()
            once = self.times.pop()
        self.calls = max(1, math.ceil(LOOP / once))
        self.rounds = min(rounds, max(LEAST_ROUNDS, int(seconds / (self.calls * once))))

    def loop(self) -> None:
        call = self.rival.call
        for _ in range(self.calls):
            call()
        if self.cuda:
            torch.cuda.synchronize()

    def ready(self) -> None:
        self.rival.prepare()
        if self.cuda:
            torch.cuda.synchronize()

    def time(self) -> None:
        self.ready()
        start = time.perf_counter()
        self.loop()
        self.times.append((time.perf_counter() - start) / self.calls)


def race(benchmark, ours: Rival, rivals: dict[str, Rival], contest: dict, rounds=ROUNDS, seconds=SECONDS) -> dict:
    """Times ours against its rivals. contest: what identifies the contest, with `level`.

    Returns {**contest, median: seconds per call of ours, rivals: {name: {median, ratio, bar, met}}}; ratio is rival over
    ours, above 1 where ours is faster.
    """
    cuda = contest["level"] == "cuda"
    watch = Watch(ours, cuda, rounds, seconds)
    watches = {name: Watch(rival, cuda, rounds, seconds) for name, rival in rivals.items()}

    def turns():
        for other in watches.values():
            if len(other.times) < other.rounds:
                other.time()
        watch.ready()

    benchmark.pedantic(watch.loop, setup=turns, rounds=watch.rounds, iterations=1)
    median = benchmark.stats.stats.median / watch.calls
    results = {}
    for name, other in watches.items():
        result = {"median": statistics.median(other.times)}
        result["ratio"] = result["median"] / median
        bar = (rivals[name].bar or {}).get(contest["level"])
        if bar is not None:
            result |= {"bar": bar, "met": result["ratio"] >= bar}
        results[name] = result
    return {**contest, "median": median, "rivals": results}


def throughput(seconds: float, elements: int, bytes_per_element: int) -> dict:
    """What a time per call means for one element and for the memory."""
    return {
        "bytes_per_element": bytes_per_element,
        "ns_per_element": seconds / elements * 1e9,
        "GB_per_s": bytes_per_element * elements / seconds / 1e9,
    }
