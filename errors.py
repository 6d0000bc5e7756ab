"""The one exception for what a user can mend, and how every script reports it."""

import contextlib
import datetime
import functools
import os
import re
import signal
import sys
from pathlib import Path


def let_signals_end():
    """Let Ctrl-C and SIGTERM end the process at once, without a word."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as it is in the background of a shell
            signal.signal(number, signal.SIG_DFL)


_script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
if _script.is_file() and b"@reports_errors" in _script.read_bytes():
    # One of the scripts was started. A KeyboardInterrupt in the middle of an import can end in a traceback, or abort.
    let_signals_end()


TORCHRUN = "TORCHELASTIC_RUN_ID" in os.environ  # started by it, as one of several processes


class UserError(Exception):
    """Bad input. The text is the whole message: what is wrong, where, and what to do next."""


def reports_errors(main):
    """Wrap a script's `main(argv)`: a mistake becomes one line on stderr and exit code 1, no traceback.

    The wrapped function returns the exit code: 0, 1, or 130 after Ctrl-C (SIGTERM exits with 143). Without
    argv it is a script's own, and the signals and memory of the process are arranged for it.
    """

    @functools.wraps(main)
    def wrapped(argv=None) -> int:
        is_script = argv is None
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            # Windows consoles and pipes are not UTF-8 by themselves; notebooks replace the streams.
            if hasattr(stream, "reconfigure"):
                how = "surrogateescape" if stream is sys.stdin else "backslashreplace"
                stream.reconfigure(encoding="utf-8", errors=how)
        if is_script:
            if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
            limit_memory()
        try:
            return main(argv) or 0
        except KeyboardInterrupt:
            if is_script:
                let_signals_end()  # to press it again does no harm
            if first_to_report():
                print("\nstopped", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
            sys.stdout = None
            return 0
        except Exception as error:
            message = _explain(error)
            if first_to_report():
                if message is None:
                    raise
                print(f"error: {one_line(message)}", file=sys.stderr)
            return 1
        finally:
            if is_script:
                let_signals_end()  # nor while Python shuts down

    return wrapped


def first_to_report() -> bool:
    """Whether no other process of torchrun's has failed before: the first one knows why, the others suffer from it."""
    try:
        return not TORCHRUN or torchrun_store(seconds=10).add("errors", 1) == 1
    except RuntimeError:  # torchrun itself has ended, on the machine that keeps the store
        return True


def torchrun_store(seconds=300):
    """Where the processes find each other: torchrun keeps it, whichever of them dies.

    It even outlives a restart, whose processes must not find the addresses of the dead.
    """
    from torch.distributed import PrefixStore, TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, timeout=datetime.timedelta(seconds=seconds))
    return PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def one_line(text) -> str:
    """The text with line ends and other control characters, as names and values may hold them, made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


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
    if is_lost_connection(error):
        return "the connection to another process broke off; torchrun says which one has ended, and how"
    return None


def is_out_of_memory(error):
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True  # torch's own class, named so that scripts without torch need not import it
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def is_lost_connection(error):
    """Of torch.distributed: its own class, named for the same reason, or a message of gloo."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return TORCHRUN and ("DistError" in names or ("RuntimeError" in names and "gloo" in str(error).lower()))


def free_memory() -> int:
    """Bytes that a process can still use: of the machine, or of the container. 0 where nobody says (not Linux)."""
    with contextlib.suppress(OSError):
        info = Path("/proc/meminfo").read_text(encoding="utf-8")
        free = sum(int(size) << 10 for size in re.findall(r"^(?:MemAvailable|SwapFree):\s+(\d+) kB", info, re.M))
        container = Path("/sys/fs/cgroup/memory.max")
        if container.exists() and (limit := container.read_text(encoding="utf-8").strip()).isdigit():
            free = min(free, int(limit))
        return free
    return 0


def limit_memory():
    """Let an allocation that the machine has no memory for fail, which is reported (Linux only).

    Otherwise it succeeds, and the kernel kills the process without a word when the memory is used.
    """
    if Path("/dev/nvidiactl").exists():
        return  # CUDA reserves far more than it uses
    with contextlib.suppress(ImportError, OSError, ValueError, TypeError):
        import resource

        if free := free_memory():
            resource.setrlimit(resource.RLIMIT_DATA, (free, resource.getrlimit(resource.RLIMIT_DATA)[1]))
