"""The one exception for what a user can mend, and how every script reports it."""

import argparse
import functools
import itertools
import os
import re
import signal
import sys
from pathlib import Path

from lib.machine.terminal import one_line
from lib.other_names import hint


class UserError(Exception):
    """Bad input. The text is the whole message: what is wrong, where, and what to do next."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse that says what is wrong in one line; exit code 2, as for any usage error."""

    def __init__(self, prog=None, **kwargs):
        module = sys.modules["__main__"].__spec__  # what python -m has started, None for a script
        if module and not prog:
            prog = f"python -m {module.name.removesuffix('.__main__')}"
        super().__init__(prog, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        known = [flag for action in self._actions for flag in action.option_strings]
        for word in args:
            try:
                os.fsencode(word)
            except UnicodeEncodeError:  # Notebooks can hand over such words, and so can Windows. No file is named so.
                self.error(f"{word}: half a character is neither a text nor a name")
        for before, word in itertools.pairwise(["", *itertools.takewhile(lambda word: word != "--", args)]):
            flag, _, value = word.partition("=")
            # This comes before anything else, because argparse takes the value of an unknown flag for a run.
            if re.fullmatch(r"--?[A-Za-z][\w-]*", flag) and flag not in known:
                if before in known and not flag.startswith("--"):
                    self.error(f"unknown flag {flag}; a value is {before}={word}")
                self.unknown(f"unknown flag {flag}", flag, known)
            if flag in known and value == "--":  # argparse would lose this value
                self.error(f"{word}: -- cannot be the value of a flag")
        return super().parse_known_args(args, namespace)

    def unknown(self, message, word, names):
        """End with an error about a word that is none of our names, and say which of them was probably meant."""
        self.error(message + hint(word, names))

    def error(self, message):
        if lacking := re.fullmatch(r"argument (--\w+).*: expected one argument", message):
            message += f"; one that begins with - comes after a =, as in {lacking[1]}=-1"
        self.exit(2, f"error: {one_line(message)} (see {self.prog} --help)\n")


def file_to_write(text) -> Path:
    """An argparse type: the path of a file, which is there already or can be made."""
    path = Path(text)
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is a folder or a device; name a file")
    return path


def in_range(kind, low, high=float("inf")):
    """An argparse type: a number of a kind (int or float) from low to high."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"  # argparse shows it: "invalid number value"
    return parse


def reports_errors(main):
    """Wrap a script's `main(argv)`: a mistake becomes one line on stderr and exit code 1, no traceback.

    The wrapped function returns the exit code: 0, 1, or 130 after Ctrl-C. SIGTERM exits with 143.
    """

    @functools.wraps(main)
    def wrapped(argv=None) -> int:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            # Windows consoles and pipes are not UTF-8 by themselves. Notebooks replace the streams.
            if hasattr(stream, "reconfigure"):
                errors = "surrogateescape" if stream is sys.stdin else "backslashreplace"
                stream.reconfigure(encoding="utf-8", errors=errors)
        if argv is None:  # A script of its own, not a call from a test or a notebook.
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            return main(argv) or 0
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 130
        except BrokenPipeError:  # The reader of a pipe (head, less) has seen enough.
            sys.stdout = None
            return 0
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            print(f"error: {one_line(message)}", file=sys.stderr)
            return 1

    return wrapped


def explain(error):
    """The line for an error that a user can mend, None for one that is our own bug."""
    if isinstance(error, UserError | FloatingPointError):
        return str(error)
    if is_out_of_memory(error):
        return (
            "out of memory: lower micro_batch_size first (the training stays the same), then block_size,"
            " n_layer or n_embd; when sampling, lower num_samples"
        )
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error} (check that the path is right, writable, and its disk not full)"
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed; python -m pip install {error.name}"
    # Those of torch.distributed are RuntimeErrors, known by their names.
    if isinstance(error, RuntimeError) and ("gloo" in str(error).lower() or type(error).__name__.startswith("Dist")):
        return "the connection to another process broke off; torchrun says which one has ended, and how"


def is_out_of_memory(error):
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True  # torch's own class, known by its name so that scripts without torch need not import it
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
