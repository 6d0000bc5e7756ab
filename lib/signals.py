"""Ctrl-C and SIGTERM: remembered until the training loop can act on them, and never in the middle of a save."""

import contextlib
import os
import signal

from lib import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Remembers a signal until the loop can act on it; a second one ends at once."""

    number = 0

    def __enter__(self):
        # A shell starts a background job with SIGINT ignored, and so it stays.
        heard = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]
        self.previous = {n: signal.signal(n, self.receive) for n in heard}
        return self

    def receive(self, number, frame):
        self.number = number
        if distributed.is_torchrun:
            return  # It passes on what a terminal or a scheduler may have sent already, so a second one means nothing.
        self.__exit__()
        with contextlib.suppress(OSError):
            # A signal can arrive while print holds its lock, so this writes to the descriptor directly.
            os.write(2, b"\nstopping after this step; once more to stop at once\n")

    def requested(self):
        """The signal that any of the processes has heard, 0 if none: all call this, so that all stop together."""
        self.number = distributed.all_reduce(self.number, "max")
        return self.number

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_wait():
    """Let signals wait: a KeyboardInterrupt in the middle of torch.save can abort the process."""
    waiting = []
    previous = {number: signal.signal(number, lambda number, _: waiting.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for number in waiting:
        signal.raise_signal(number)
