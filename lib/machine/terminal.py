"""What a script prints, when nobody can read it any more: a pipe whose reader has ended, a terminal that was closed."""

import os
import sys


class LastingStream:
    """A text stream. When it cannot be written to, what is printed from then on goes nowhere, and no print fails."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        self.attempt(self.stream.write, text)
        return len(text)

    def flush(self):
        self.attempt(self.stream.flush)

    def attempt(self, action, *args):
        try:
            action(*args)
        except OSError as error:
            # Text that waits in a buffer goes the same way, now or when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            message = f"nothing more can be printed here ({error.strerror}); the run goes on all the same"
            print(message, file=sys.stderr, flush=True)


def outlive_readers():
    """Let no print fail: a training has hours to go when its terminal is closed, or when `| head` has seen enough."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream and not isinstance(stream, LastingStream):
            setattr(sys, name, LastingStream(stream))
