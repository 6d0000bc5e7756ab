"""One line instead of a traceback where a script cannot start: Python is too old, or a library is not installed.

This is the one import whose order matters: the scripts import it first, so that it is there when another one fails.
An old Python must be able to read it.
"""

import sys


def say_what_is_missing(kind, error, traceback):
    """What Python calls with an exception that nothing has caught."""
    if issubclass(kind, ModuleNotFoundError):
        print(
            f"error: {error.name} is not installed for {sys.executable}; start with .venv/bin/python,"
            " or install: python3 -m pip install -r requirements.txt",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, traceback)


if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"error: {sys.executable} is Python {sys.version.split()[0]}, and 3.11 or newer is needed;"
        " start with .venv/bin/python, or make it with a newer one: make demo PYTHON=python3.12"
    )
sys.excepthook = say_what_is_missing
