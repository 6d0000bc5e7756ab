"""Draw the loss curve of a run, or of several in one picture.

    python plot_loss.py                     the most recent run
    python plot_loss.py tiny other          several runs, by name or folder
    python plot_loss.py tiny --out=curve.png

Reads   out/<run>/loss_log.json
Writes  out/<run>/loss.png, or out/loss.png for several runs
"""

import lib.machine.startup  # noqa: F401  It must be first; it says why.

# isort: split
import math
import sys

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from config import out_dir
from lib.errors import ArgumentParser, UserError, file_to_write, reports_errors
from lib.run.runs import Run, smooth
from lib.storage import atomic_write, is_number

CJK_FONTS = ["Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Microsoft YaHei", "SimHei", "PingFang SC"]
CJK_FONTS += ["Hiragino Sans GB", "Heiti SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Noto Sans CJK JP"]
CJK_FONTS += ["Arial Unicode MS", "Droid Sans Fallback"]


def draw(runs, x):
    """The figure: loss and perplexity above, learning rate below.

    x: "step", or "tokens" to compare runs whose steps are not of one size.
    """
    titles = [drawable(run.name) for run in runs]  # before the texts that take their fonts from rcParams
    figure = Figure(figsize=(9, 6.5), dpi=150, layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    many = len(runs) > 1
    for i, run in enumerate(runs):
        color, val_color = f"C{i}", f"C{i}" if many else "C1"
        of_run = f" – {titles[i]}" if many else ""
        steps, values = run.series("train_loss", x)
        if len(steps):
            loss.plot(steps, values, color=color, alpha=0.2, linewidth=0.7)
            loss.plot(steps, smooth(values, len(values) // 50), color=color, linewidth=1.2, label=f"training{of_run}")
        steps, values = run.series("val_loss", x)
        if len(steps):
            loss.plot(steps, values, "o-", color=val_color, markersize=3.5, linewidth=1.8, label=f"validation{of_run}")
            best = int(np.argmin(values))
            loss.plot(steps[best], values[best], "*", color=val_color, markersize=13, markeredgecolor="white")
            figures = f"best {values[best]:.3f}\nPPL {math.exp(min(values[best], 700)):.1f}"
            place = {"xytext": (-6, 10 + 26 * i), "textcoords": "offset points", "ha": "right"}
            loss.annotate(figures, (steps[best], values[best]), **place, color=val_color)
        baseline = run.unigram_entropy
        if is_number(baseline) and (i == 0 or baseline != runs[0].unigram_entropy):
            label = f"unigram baseline {baseline:.2f}{of_run}"
            loss.axhline(baseline, color=color if many else "gray", linestyle="--", linewidth=1, label=label)
        rate.plot(*run.series("lr", x), color=color, linewidth=1.2)

    loss.set_title(" · ".join(titles), parse_math=False)
    loss.set_ylabel("loss, nats per token")
    for text in loss.legend().get_texts():
        text.set_parse_math(False)  # $ begins no formula
    both_ways = (lambda nats: np.exp(np.clip(nats, -20, 300)), lambda ppl: np.log(np.clip(ppl, 1e-9, None)))
    perplexity = loss.secondary_yaxis("right", functions=both_ways)
    perplexity.set_ylabel("perplexity")
    perplexity.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=15))
    perplexity.yaxis.set_major_formatter("{x:,g}")
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    rate.set_xlabel("step" if x == "step" else "training tokens")
    for axes in (loss, rate):
        axes.grid(alpha=0.25)
    return figure


def drawable(name):
    """The name as the picture can show it: characters that no installed font has become escapes."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    family = ["sans-serif", *(font for font in CJK_FONTS if font in installed)]
    matplotlib.rcParams["font.family"] = family
    paths = [font_manager.findfont(font_manager.FontProperties(family=[font])) for font in family]
    known = set().union(*(font_manager.get_font(path).get_charmap() for path in paths))
    shown = "".join(c if ord(c) in known else c.encode("unicode_escape").decode() for c in name)
    if shown != name:
        problem = f"matplotlib knows no font with all characters of {name}, so the picture says {shown}"
        print(f"warning: {problem}; install Noto Sans CJK for Chinese ones", file=sys.stderr)
    return shown


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names under out/ or folders [the most recent]")
    parser.add_argument("--run", "--run_name", action="append", default=[], metavar="RUN", help="one more of them")
    parser.add_argument("--out", type=file_to_write, metavar="FILE", help="where to write the picture")
    args = parser.parse_args(argv)
    runs = [Run(name) for name in args.runs + args.run or [""]]
    figure = draw(runs, "step" if len({run.step_tokens for run in runs}) == 1 else "tokens")
    out = args.out or (runs[0].folder if len(runs) == 1 else out_dir()) / "loss.png"
    kind = out.suffix[1:].lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise UserError(f"{out}: cannot write a .{kind} file; use .png, .svg or .pdf")
    with atomic_write(out) as file:
        figure.savefig(file, format=kind)
    print(f"saved {out}")


if __name__ == "__main__":
    sys.exit(main())
