"""Signals that whoever started a command has it ignore."""

import os
import signal
from typing import ClassVar

import pytest

from distillkac.base import processes


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_nohup_has_ignored_stays_so(handler):
    class Child:
        sent: ClassVar[list] = []

        def poll(self):
            return None

        def send_signal(self, number):
            self.sent.append(number)

    Child.sent.clear()
    outside = signal.signal(signal.SIGHUP, handler)
    try:
        with processes._handed_on([Child()]):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, outside)
    assert Child.sent == ([] if handler == signal.SIG_IGN else [signal.SIGTERM])
