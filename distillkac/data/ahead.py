"""Reading while the network computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], threads: int, stop: Callable[[], None] | None = None
) -> Iterator[Result]:
    """read(item) for each item, in order, by so many threads, at most two items a thread ahead; 0 reads when asked.

    Threads, because image decoders let go of the interpreter, and processes would have to survive signals of their own.
    An error of `read` is raised where its result would have come. stop: called when no more results are wanted, so that
    what `read` waits for need not come.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read") if threads else None
    waiting: deque[Future[Result]] = deque()
    try:
        if pool is None:
            yield from map(read, items)
            return
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        if stop is not None:
            stop()
        if pool is not None:
            pool.shutdown(cancel_futures=True)
