"""Where a run keeps its files, and how one is found."""

import argparse
from pathlib import Path

import config
from lib.errors import UserError, one_line

BEST, LATEST, LOG, SAMPLES = "best.pt", "ckpt.pt", "loss_log.json", "samples.md"


def add_run_argument(parser, help="a name under out/, a folder or a checkpoint [the most recent]"):
    """Let a script take a run as a word or with --run. args.run is "" without either; both are a usage error."""
    parser.set_defaults(run="")
    group = parser.add_mutually_exclusive_group()
    words = {"default": argparse.SUPPRESS, "metavar": "RUN"}
    group.add_argument("run", nargs="?", help=help, **words)
    group.add_argument("--run", "--run_name", help="the same, as a flag", **words)


def run_name(folder) -> str:
    """The name of a run is that of its folder, whatever its files say: a folder may be renamed or copied."""
    return one_line(folder.resolve().name)


def find_run(run, *names) -> Path:
    """The file of a run: the first of `names` that it has.

    run: a folder or a file (relative to the working folder), a name under out/, or "" for the run
    that was written to last. Raises UserError.
    """
    out = config.ROOT / "out"
    found = [path for name in names for path in out.glob(f"*/{name}")]
    places = (Path(run), out / run)  # A folder of that name need not be a run.
    if not run:
        if not found:
            raise UserError(f"no run in {out}; train one first: python train.py config/tiny.py")
        places = (max(found, key=lambda path: path.stat().st_mtime).parent,)
    for path in (*(place / name for place in places for name in names), *places):
        if path.is_file():
            return path
    folder = next((place for place in reversed(places) if place.exists()), None)
    if folder:
        raise UserError(f"{folder} has no {' or '.join(names)}; train the run first, or name another with --run")
    known = ", ".join(sorted({path.parent.name for path in found}))
    raise UserError(f"no run named {run!r}; there is {known or 'none yet'}")
