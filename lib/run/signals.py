"""Ctrl-C, SIGTERM and SIGHUP: remembered until the training loop can act on them, never in the middle of a save."""

import contextlib
import os
import signal
import threading

from lib.machine import distributed

# Windows has no SIGHUP, the signal of a terminal that is closed.
ALL = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def signals() -> tuple:
    """The signals that can be heard: in a thread other than the main one, such as that of a web page, none can."""
    return ALL if threading.current_thread() is threading.main_thread() else ()


class StopSignal:
    """Remembers a signal until the loop can act on it; a second one ends at once, unless it is a SIGHUP.

    number: the signal that this process has heard, 0 if none. agreed: one of which all processes know.
    """

    number = agreed = 0

    def __enter__(self):
        # A shell starts a background job with SIGINT ignored, nohup with SIGHUP, and so it stays.
        heard = [n for n in signals() if signal.getsignal(n) != signal.SIG_IGN]
        self.previous = {n: signal.signal(n, self.receive) for n in heard}
        return self

    def receive(self, number, frame):
        self.number = number
        if distributed.is_torchrun:
            return  # One Ctrl-C arrives twice, from the terminal and from torchrun, which passes on what it hears.
        self.__exit__()
        if hasattr(signal, "SIGHUP"):  # A closed terminal sends it twice, by way of the shell and by itself.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            # A signal can arrive while print holds its lock, so this writes to the descriptor directly.
            os.write(2, b"\nstopping after this step; once more to stop at once\n")

    def requested(self):
        """The signal that any of the processes has heard, 0 if none: all call this, so that all stop together."""
        self.agreed = distributed.all_reduce(self.number, "max")
        return self.agreed

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_wait():
    """Let signals wait: a KeyboardInterrupt in the middle of torch.save can abort the process."""
    waiting = []
    previous = {number: signal.signal(number, lambda number, _: waiting.append(number)) for number in signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for number in waiting:
        signal.raise_signal(number)
