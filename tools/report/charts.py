"""The charts of a page: matplotlib draws them as SVG, which takes its colours and its font from the page."""

import io
import re

import matplotlib
from matplotlib.figure import Figure

WIDTH, HEIGHT = 720, 354
LEFT, RIGHT, TOP, BOTTOM = 60, 684, 340, 34  # of the axes. The larger text of a phone needs such margins.
# What is drawn in one of these colours gets the colour of that name in base.html, which differs by day and by night.
COLORS = {name: f"#{i:06x}" for i, name in enumerate(("blue", "orange", "soft", "line", "level"), 1)}
STYLE = {
    "axes.autolimit_mode": "round_numbers",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "figure.frameon": False,
    "font.size": 17,  # Text is aligned for this size; base.html sets the one that is seen.
    "grid.color": COLORS["line"],
    "lines.linewidth": 2,
    "lines.markersize": 6.5,
    "svg.fonttype": "none",  # Text stays text.
    "svg.hashsalt": "report",  # The same chart always gives the same file.
    "text.color": COLORS["soft"],
    "xtick.labelcolor": COLORS["soft"],
    "ytick.labelcolor": COLORS["soft"],
}


def chart(curves, levels, log=False) -> str:
    """An <svg> of curves, [(x, y)], the first one blue, the second orange. It holds no text of the user's.

    levels: {name: y}, lines across. log: whether the scale of x is logarithmic. What the axes are, the page says around
    it, in both languages.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))  # matplotlib's SVG has 72 units an inch.
        axes = figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, (RIGHT - LEFT) / WIDTH, (TOP - BOTTOM) / HEIGHT))
        axes.set_xscale("log", base=2) if log else axes.locator_params("x", nbins=5, integer=True)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.tick_params(length=0, pad=10, grid_clip_on=False)
        axes.spines[:].set_visible(False)
        for color, (x, y) in zip(("blue", "orange"), curves, strict=False):
            axes.plot(x, y, color=COLORS[color], marker="o" if len(x) < 60 else "", clip_on=False)
        if axes.dataLim.width == 0:  # The run has a single evaluation so far.
            axes.set_xlim(axes.dataLim.x0, axes.dataLim.x0 + 1)
        for y in levels.values():
            axes.axhline(y, color=COLORS["level"], linewidth=1, dashes=(5, 5))
        low, high = axes.get_ylim()
        unit, label_at = (high - low) / (TOP - BOTTOM), low
        for name, y in sorted(levels.items(), key=lambda level: level[1]):  # The labels keep apart from one another.
            label_at = max(y + 5 * unit, label_at)
            axes.text(1, label_at, f"{name} {y:.2f}", ha="right", transform=axes.get_yaxis_transform())
            label_at += 28 * unit
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    svg = re.sub(r' id="[\w.]+_\d+"|font-(size|family): [^;]*; ', "", svg)  # Two charts may not share an id.
    svg = re.sub(r"(\.\d\d)\d+(?=[^<]*>)", r"\1", svg)  # In a tag, a hundredth of a unit is enough.
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">' + svg.partition("<svg")[2].partition(">")[2]
