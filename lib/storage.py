"""Files that are never half-written: atomic writing, the lock of a folder, JSON, checksums."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from lib.errors import UserError

LARGEST_FILE = 1 << 28  # bytes of a file that is read whole


@contextlib.contextmanager
def atomic_write(path, mode="wb"):
    """Open a file that appears under its name only when it is complete and on the disk.

    Until then the previous file of that name stays. The temporary name is always the same, so that
    what a killed process left behind is overwritten by the next one.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # A rename would put a file in the place of a device such as /dev/null.
        raise UserError(f"{path} is a folder or a device; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # A file name can hold bytes that are not text. They become \ud800 and the like, as JSON writes them.
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
        with open(temporary, mode, **text) as file:
            yield file
            flush_to_disk(file)
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:  # A full disk names no file.
            error.filename = str(path)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # The new name should reach the disk too. Some shared folders and network drives refuse it.
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def flush_to_disk(file):
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def lock_folder(folder, name=".lock", wait=False):
    """Keep other processes from writing into a folder. The lock ends with the process, however that ends.

    name: the file of the lock; a folder may have several, each for some of its files. Raises UserError if another
    process holds it, unless it is to wait. Where a drive knows no locks there is none, and a warning says so.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / name, blocking=wait).acquire()
    except Timeout:
        raise UserError(f"{folder} is being written by another process; wait for its end, or stop it") from None
    except OSError as error:
        if error.filename:  # The file of the lock cannot be made, so no other file can.
            raise
        warn_once(f"{folder} cannot be locked ({error.strerror}); let no two scripts write there")
        lock = contextlib.nullcontext()
    with lock:
        yield


@functools.cache
def warn_once(text):
    print(f"warning: {text}", file=sys.stderr)


def remove_leftovers(folder):
    """Clear away what a killed process left half-written in a folder that is locked."""
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def write_text(path, text):
    with atomic_write(path, "w") as file:
        file.write(text)


def write_json(path, value, indent=None):
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


def read_text(path, hint) -> str:
    """A file that is read whole. hint: what the user should do if it is missing or damaged. Raises UserError."""
    path = Path(path)
    if not path.is_file():  # A pipe or a device could be read for ever.
        raise UserError(f"{path} does not exist; {hint}")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} is damaged (larger than {LARGEST_FILE:,} bytes); {hint}")
    try:
        return path.read_bytes().decode()  # as it is, line ends too
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); {hint}") from None


def read_json(path, hint) -> dict:
    try:
        value = json.loads(read_text(path, hint))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {hint}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (not a JSON object); {hint}")
    return value


def is_number(value) -> bool:
    """Whether a value of a file is a number that can be calculated with."""
    return type(value) in (int, float) and abs(value) < 1e300


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
