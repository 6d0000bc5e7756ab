"""Look at the form of the poems that a GPT writes: are their lines of one length, and do they rhyme?

    python -m tools.lab.verse small [--num_samples=300] [--temperature 0.5 0.8 1]

For a run that was trained on data/poetry.py: a title, an author, an empty line, then the verse. A line ends at a
punctuation mark, and every second line may rhyme with the next but one. Which characters rhyme is not known from a
book, but from the poets: those that end two such lines of a training poem three times as often as by chance, or more.
Printed are the figures of validation poems, and of as many that the model writes at each temperature.
"""

import random
import re
import sys
from collections import Counter
from itertools import pairwise

from config import DEVICES
from lib.errors import ArgumentParser, UserError, in_range, reports_errors
from lib.machine.device import set_up
from lib.run.runs import Run, add_run_argument
from sample import load_model
from tools.report.measures import run_tokens, to_bytes

FORMS = (5, 7)  # characters in a line


def lines(poem) -> list[str]:
    """The lines of its verse, without punctuation."""
    return re.findall(r"\w+", poem.partition("\n\n")[2])


def form(poem) -> tuple[int, float]:
    """(how many characters most of its lines have, the share of the lines that have so many)."""
    lengths = Counter(map(len, lines(poem)))
    [(length, count)] = lengths.most_common(1) or [(0, 0)]
    return length, count / max(1, lengths.total())


def ends(poem) -> list[str]:
    """The characters that may rhyme: the last one of every second line."""
    return [line[-1] for line in lines(poem)[1::2]]


def rhymes(poems) -> set:
    """The pairs of characters that rhyme, as the poets of some poems show."""
    pairs = Counter(pair for poem in poems for pair in pairwise(ends(poem)))
    pairs += Counter({(b, a): count for (a, b), count in pairs.items()})
    single = Counter(a for a, _ in pairs.elements())
    total = single.total()
    return {(a, b) for (a, b), n in pairs.items() if a != b and n > 1 and n * total >= 3 * single[a] * single[b]}


def judge_verse(poems, known_rhymes) -> dict:
    """What is printed of some poems, each a share. known_rhymes: see `rhymes`."""
    forms = [form(poem) for poem in poems]
    regular = [share for length, share in forms if length in FORMS]
    pairs = [pair for poem in poems for pair in pairwise(ends(poem))]
    characters = [b for _, b in pairs]
    random.Random(0).shuffle(characters)
    by_chance = [(a, c) for (a, _), c in zip(pairs, characters, strict=True)]
    return {
        **{f"of {n}s": mean(length == n for length, _ in forms) for n in FORMS},
        "lines right": mean(regular),
        "all lines": mean(share == 1 for share in regular),
        "rhymes": mean(pair in known_rhymes for pair in pairs),
        "by chance": mean(pair in known_rhymes for pair in by_chance),
    }


def mean(values) -> float:
    values = list(values)
    return sum(values) / max(1, len(values))


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    add_run_argument(parser)
    parser.add_argument("--num_samples", type=in_range(int, 1, 10_000), default=300, help="poems to write [300]")
    parser.add_argument("--temperature", type=in_range(float, 0, 100), nargs="+", default=[0.5, 0.8, 1.0], metavar="T")
    parser.add_argument("--device", default="auto", choices=DEVICES, metavar="NAME", help="[auto]")
    args = parser.parse_args(argv)
    text_model, path, checkpoint = load_model(args.run, device=args.device)
    set_up(text_model.model.embedding.weight.device)
    _, train, val, _ = run_tokens(Run(str(path.parent)), checkpoint)
    pieces = [piece or b"\0" for piece in text_model.token_bytes]
    train, val = (to_bytes(pieces, ids).decode(errors="replace").split("\0") for ids in (train, val))
    known_rhymes = rhymes(train)
    if not known_rhymes:
        raise UserError(f"{path}: its training text has no poems as data/poetry.py writes them")

    poems = [poem for poem in val if lines(poem)]
    rows = {"validation text": random.Random(0).sample(poems, min(args.num_samples, len(poems)))}
    longest = text_model.model.config.block_size - 1
    for temperature in args.temperature:
        written = text_model.stream("", args.num_samples, longest, temperature=temperature, seed=0)
        rows[f"temperature {temperature:g}"] = ["".join(parts) for parts in zip(*written, strict=True)]
    for name, poems in rows.items():
        figures = judge_verse(poems, known_rhymes)
        print(f"{name:16} " + "  ".join(f"{what} {share:.1%}" for what, share in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
