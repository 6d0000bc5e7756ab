"""What a script prints: texts, numbers and names in it, and what happens when nobody can read it any more."""

import os
import re
import sys

# Control characters, line and paragraph separators, what reverses the order of writing, half characters.
CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text) -> str:
    """Any text as a terminal may show it: line ends and other characters that control it are made visible."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def first_few(names) -> str:
    return ", ".join(names[:8]) + (f", … ({len(names):,} in all)" if len(names) > 8 else "")


def format_number(x) -> str:
    return f"{x:,.1f}" if x >= 1 else f"{x:.2g}"


def format_time(seconds) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_bytes(size) -> str:
    if size < 1e9:
        return f"{size / 1e6:,.0f} MB"
    return f"{size / 1e9:,.{1 if size < 1e10 else 0}f} GB"


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
