"""Ctrl-C and SIGTERM as a wish, not a blow."""

import signal
import threading


class StopSignal:
    """While active, the first Ctrl-C or SIGTERM only sets `requested`; a second one acts as usual."""

    def __init__(self):
        self.requested = False

    def __enter__(self):
        # Python lets only the main thread set handlers; elsewhere the program around us decides.
        main = threading.current_thread() is threading.main_thread()
        self._previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)} if main else {}
        for number in self._previous:
            signal.signal(number, self._request)
        return self

    def __exit__(self, *exception):
        self._reset()

    def _request(self, number, frame):
        self.requested = True
        self._reset()

    def _reset(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
