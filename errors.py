"""The one exception for what a user can mend, and how every script reports it."""

import functools
import sys


class UserError(Exception):
    """Bad input. The text is the whole message: what is wrong, where, and what to do next."""


def reports_errors(main):
    """Wrap a script's `main(argv)`: a mistake becomes one line on stderr and exit code 1, no traceback.

    The wrapped function returns the exit code: 0, 1, or 130 after Ctrl-C.
    """

    @functools.wraps(main)
    def wrapped(argv=None) -> int:
        for stream in (sys.stdout, sys.stderr):
            # Windows consoles and pipes are not UTF-8 by themselves; notebooks replace the streams.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        try:
            return main(argv) or 0
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
            sys.stdout = None
            return 0
        except Exception as error:
            message = _explain(error)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr)
            return 1

    return wrapped


def _explain(error):
    """The line for errors that a user can mend, None for those that are our own bugs."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return (
            "out of memory: lower micro_batch_size first (the training stays the same), then block_size,"
            " n_layer or n_embd; when sampling, lower num_samples"
        )
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error} (check that the path is right, writable, and its disk not full)"
    return None


def is_out_of_memory(error):
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True  # torch's own class, named so that scripts without torch need not import it
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
