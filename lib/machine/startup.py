"""What must happen before anything else is imported: every script and tool imports this first.

An old Python must be able to read it.
"""

import os
import sys
from pathlib import Path


def say_what_is_missing(kind, error, traceback):
    """What Python calls with an exception that nothing has caught: a missing library becomes one line."""
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

# A thread of GNU OpenMP that waits for another one computes in circles for milliseconds. Where something else is at
# work, the other thread gets no core in that time, and training takes several times as long (python -m tools.lab.busy
# measures it). So where a model is trained it sleeps after some microseconds; in sample.py, whose threads wait far more
# often, that would cost a quarter of the speed. OpenMP reads this once, when torch is imported.
trains = Path(sys.argv[0]).name == "train.py" or "tools.recipe" in sys.orig_argv
if trains and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
