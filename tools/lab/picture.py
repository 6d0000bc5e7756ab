"""Draw the model as docs/why.md shows it: three tokens on their way to the next one, with the true numbers of a run.

    python -m tools.lab.picture tiny

Reads   out/<run>/best.pt
Writes  docs/model.svg, docs/model.zh-CN.svg
"""

import sys

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path

from config import ROOT
from lib.errors import ArgumentParser, UserError, reports_errors
from lib.run.runs import add_run_argument
from lib.storage import atomic_write
from plot_loss import drawable
from sample import load_model
from tools.report.measures import attention_shares

PROMPT = "却说曹"
GUESSES = 3  # shown below each token
CELLS = 16  # numbers of each embedding row that are shown, as colours
PAPER, CARD, INK, SOFT, QUIET = "#fdfcf9", "#f2f1ec", "#22252a", "#646a73", "#c9c6bd"
BLUE, LIGHT_BLUE, ORANGE = "#2f6fb5", "#8fb4dc", "#cf6a1c"

# {name: (number of the section in docs/why.md, the word in each language)} from top to bottom
WORDS = {
    "tokens": ("1", "tokens", "token"),
    "ids": ("", "ids", "编号"),
    "embedding": ("3", "embedding", "嵌入"),
    "norm": ("4", "RMSNorm", "RMSNorm"),
    "attention": ("5–9", "attention", "注意力"),
    "swiglu": ("10", "SwiGLU", "SwiGLU"),
    "residual": ("11", "residual", "残差相加"),
    "head": ("3", "head", "输出头"),
    "softmax": ("13", "softmax", "softmax"),
    "next": ("", "next token", "下一个 token"),
}
FILES = ("model.svg", "model.zh-CN.svg")

ACROSS, DOWN = 480, 704  # pixels
COLUMNS, ASIDE = (176, 282, 388), 34  # where the residual streams are, and how far beside them the layers
CHIP = 88  # width of a token


@torch.inference_mode()
def compute(text_model):
    """(names, ids, embedding rows, attention weights, guesses) of PROMPT.

    The weights are those of the last block, the mean of its heads: of each token, to itself and those before it.
    guesses: (token, probability) per position. Raises UserError.
    """
    model, idx = text_model.model, text_model.encode(PROMPT)
    if idx.size(1) != len(COLUMNS):
        raise UserError(f"the picture has room for {len(COLUMNS)} tokens, and for this model {PROMPT} is {idx.size(1)}")
    chances = model.lm_head(model.hidden(idx))[0].softmax(dim=-1)
    lengths = range(1, idx.size(1) + 1)
    weights = [attention_shares(model, idx[:, :length])[-1].mean(dim=0).tolist() for length in lengths]

    def name(i):
        return text_model.tokenizer.decode([i], skip_special_tokens=False).replace("\n", "↵").replace(" ", "␣")

    likely = chances.topk(GUESSES)
    guesses = [
        [(name(i), p) for i, p in zip(ids, values, strict=True)]
        for ids, values in zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
    ]
    ids = idx[0].tolist()
    return [name(i) for i in ids], ids, model.embedding.weight[ids, :CELLS], weights, guesses


class Drawing:
    """A figure whose coordinates are pixels, y downwards."""

    def __init__(self):
        self.figure = Figure(figsize=(ACROSS / 96, DOWN / 96))
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, ACROSS), ylim=(DOWN, 0))
        self.axes.axis("off")
        self.box(1, 1, ACROSS - 2, DOWN - 2, PAPER, edge="#e3e0d8", radius=14)

    def text(self, x, y, text, size=16, color=INK, ha="center", **how):
        # The anchor is the middle of a line, whatever letters it has, so that words of a row are aligned.
        self.axes.text(
            x, y, text, fontsize=size * 0.75, color=color, ha=ha, va="center_baseline", parse_math=False, **how
        )

    def box(self, x, y, width, height, color, edge="none", radius=6, z=0):
        style = f"round,pad=0,rounding_size={radius}"
        self.axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc=color, ec=edge, lw=0.75, zorder=z))

    def line(self, xs, ys, color=INK, width=1.6, z=1):
        self.axes.plot(xs, ys, color=color, lw=width * 0.75, solid_capstyle="round", zorder=z)

    def dot(self, x, y, radius, color, edge=INK, z=4):
        self.axes.add_patch(Circle((x, y), radius, fc=color, ec=edge, lw=1.1, zorder=z))

    def bend(self, start, end):
        middle = (start[1] + end[1]) / 2
        path = Path([start, (start[0], middle), (end[0], middle), end], [Path.MOVETO] + 3 * [Path.CURVE4])
        self.axes.add_patch(PathPatch(path, fc="none", ec=SOFT, lw=0.9, zorder=1))

    def arc(self, start, end, width, color):
        how = {"arrowstyle": "-", "connectionstyle": "arc3,rad=0.28", "shrinkA": 0, "shrinkB": 0, "capstyle": "round"}
        self.axes.add_patch(FancyArrowPatch(start, end, lw=width * 0.75, color=color, zorder=3, **how))


def draw(language, n_layer, vocab_size, names, ids, rows, weights, guesses):
    """The figure. language: the number of the file."""
    d = Drawing()

    def label(name, y):
        number, *both = WORDS[name]
        d.text(14, y, both[language], 15, ha="left", color=INK if number else SOFT)
        if number:
            d.text(114, y, number, 14, BLUE, ha="right")

    # Tokens, ids, rows of the embedding
    for name, y in (("tokens", 36), ("ids", 70), ("embedding", 102)):
        label(name, y)
    largest = rows.abs().max()
    for x, name, i, row in zip(COLUMNS, names, ids, rows.tolist(), strict=True):
        d.box(x - CHIP / 2, 18, CHIP, 36, "white", QUIET)
        d.text(x, 36, name, 18)
        d.text(x, 70, f"{i}", 15, SOFT)
        for j, value in enumerate(row):
            color = BLUE if value > 0 else ORANGE
            cell = Rectangle((x - CHIP / 2 + j * CHIP / CELLS, 92), CHIP / CELLS, 20, fc=color, lw=0, zorder=2)
            cell.set_alpha(min(1.0, abs(value) / float(largest)) * 0.9 + 0.06)
            d.axes.add_patch(cell)

    # The blocks
    top, bottom = 134, 452
    d.box(122, top, ACROSS - 122 - 12, bottom - top, CARD, radius=12)
    d.text(ACROSS - 22, top + 18, f"× {n_layer}", 16, SOFT, ha="right")
    for name, y in (("norm", 184), ("attention", 240), ("residual", 282), ("norm", 338), ("swiglu", 382)):
        label(name, y)
    label("residual", 424)
    for x in COLUMNS:
        d.line([x, x], [112, 546])
        for fork, norm, layer, add in ((160, 184, 240, 282), (314, 338, 382, 424)):
            side = x + ASIDE
            d.bend((x, fork), (side, norm - 6))
            d.line([side, side], [norm, layer], SOFT, 1.2)
            d.bend((side, layer), (x, add - 9))
            d.dot(side, norm, 6, PAPER, SOFT)
            if layer == 240:
                d.dot(side, layer, 9, BLUE, BLUE)
            else:
                d.box(side - 9, layer - 9, 18, 18, ORANGE, ORANGE, 4, z=4)
            d.dot(x, add, 9, PAPER)
            d.line([x - 4.5, x + 4.5], [add, add], z=5)
            d.line([x, x], [add - 4.5, add + 4.5], z=5)
    for i, x in enumerate(COLUMNS):
        for j in range(i):
            d.arc((COLUMNS[j] + ASIDE, 240), (x + ASIDE, 240), 1 + 7 * weights[i][j], LIGHT_BLUE)

    # Norm, head, the next token
    for name, y in (("norm", 476), ("head", 510), ("softmax", 546), ("next", 590)):
        label(name, y)
    for x, column in zip(COLUMNS, guesses, strict=True):
        is_last = x == COLUMNS[-1]
        d.dot(x, 476, 6, PAPER, SOFT)
        d.box(x - CHIP / 2, 498, CHIP, 24, "white", QUIET, z=2)
        d.text(x, 510, f"{vocab_size}", 14, SOFT, zorder=3)
        d.axes.plot([x - 5, x, x + 5], [552, 558, 552], color=INK, lw=1.2)
        for row, (name, chance) in enumerate(column):
            y = 590 + 36 * row
            d.text(x - CHIP / 2, y, name, 14 if len(name) > 3 else 17, INK if is_last else SOFT, ha="left")
            d.text(x + CHIP / 2, y, f"{chance:.0%}", 14, BLUE if is_last else SOFT, ha="right")
            for share, color in ((1, "#e7e5de"), (chance, BLUE if is_last else LIGHT_BLUE)):
                d.line([x - CHIP / 2 + 1.5, x + CHIP * (share - 0.5) - 1.5 * (share == 1)], 2 * [y + 15], color, 3)
    return d.figure


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    add_run_argument(parser)
    args = parser.parse_args(argv)
    text_model, _, _ = load_model(args.run, device="cpu")
    model, found = text_model.model, compute(text_model)
    drawable(PROMPT)  # It puts the fonts with Chinese characters behind the others. Here they go first.
    matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"][1:], "sans-serif"]
    # Characters become outlines, so that the picture looks the same everywhere. Without date and random ids it stays
    # the same file where nothing has changed.
    matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "model"})
    for language, name in enumerate(FILES):
        figure = draw(language, len(model.blocks), model.embedding.num_embeddings, *found)
        with atomic_write(ROOT / "docs" / name, "w") as file:
            figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
        print(f"saved docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
