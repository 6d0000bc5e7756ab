"""The figures that the documents take from docs/results/ are those of the files there."""

import json
import re

import pytest

from lib.run.runs import Run
from tests.conftest import SCRIPTS

RESULTS = SCRIPTS / "docs" / "results"
README = ("README.md", "README.zh-CN.md")


def evaluations(name):
    """{step: the record of an evaluation} of a published run."""
    records = Run(str(RESULTS / name / "loss_log.json")).records
    return {record["step"]: record for record in records if "val_loss" in record}


def read(page):
    return (SCRIPTS / page).read_text(encoding="utf-8")


def rows(page, n_cells):
    """The rows of its tables that have so many cells, each a list of numbers, without those that hold other text."""
    found = []
    for line in re.findall(r"^\|(.+)\|$", read(page), re.M):
        cells = [re.sub(r"[, *]|step|第|步", "", cell) for cell in line.split("|")]
        if len(cells) == n_cells and all(re.fullmatch(r"[\d.:]+", cell) for cell in cells):
            found.append([float(cell) if ":" not in cell else cell for cell in cells])
    return found


@pytest.mark.parametrize("page", README)
def test_the_log_in_the_readme(page):
    published, shown = evaluations("tiny-cpu"), re.findall(r"^step ([\d,]+): validation loss (.+)$", read(page), re.M)
    assert len(shown) == 3
    for step, figures in shown:
        record = published[int(step.replace(",", ""))]
        exact = [record[key] for key in ("val_loss", "val_ppl", "val_bpc", "val_bpb")]
        assert [float(figure) for figure in re.findall(r"\d+\.\d+", figures)] == pytest.approx(exact, rel=3e-5)


@pytest.mark.parametrize("page", ["docs/faq.md", "docs/faq.zh-CN.md"])
def test_the_tiny_run(page):
    published, shown = evaluations("tiny-cpu"), rows(page, 6)
    assert len(shown) == 5
    for step, tokens, seconds, loss, ppl, bits in shown:
        record = published[step]
        exact = record["tokens"], round(record["seconds"]), record["val_ppl"]
        assert (tokens, seconds) == exact[:2] and ppl == pytest.approx(exact[2], abs=0.6)
        assert (loss, bits) == pytest.approx((record["val_loss"], record["val_bpc"]), abs=6e-3)


@pytest.mark.parametrize("page", ["docs/small.md", "docs/small.zh-CN.md"])
def test_the_long_runs(page):
    shown = rows(page, 6)
    runs = [evaluations(name) for name in ("small-cpu", "mini-cpu")]
    assert len(shown) == 12 + 11
    for i, (time, step, tokens, loss, ppl, bits) in enumerate(shown):
        record = runs[i >= 12][step]
        hours, minutes, seconds = map(int, time.split(":"))
        assert abs(3600 * hours + 60 * minutes + seconds - record["seconds"]) < 1
        assert abs(1e6 * tokens - record["tokens"]) < 5001 and ppl == pytest.approx(record["val_ppl"], abs=0.6)
        assert (loss, bits) == pytest.approx((record["val_loss"], record["val_bpc"]), abs=6e-4)


def test_what_the_long_runs_came_to():
    small, mini = evaluations("small-cpu")[3700], evaluations("mini-cpu")[9000]
    for page in README:
        for figure in (f"{small['val_loss']:.3f} nats", f"PPL {small['val_ppl']:.0f}", f"{small['val_bpc']:.3f}"):
            assert figure in read(page), figure
        assert f"{mini['val_loss']:.3f} nats" in read(page)


@pytest.mark.parametrize("page", ["docs/comparison.md", *README])
def test_beside_nanogpt(page):
    text, race = read(page), json.loads((RESULTS / "race.json").read_text(encoding="utf-8"))["races"]["sanguo"]
    for bits, seconds in (race["nanoGPT"], race["ours"]):
        assert f"{bits:.3f}" in text and f"{seconds:.0f} " in text
    assert f"{race['until']:.0f} " in text
    rates = json.loads((RESULTS / "peers.json").read_text(encoding="utf-8"))["tokens per second"]
    for name in ("config/tiny.py", "config/small.py"):
        times = {key: rate / rates[name]["nanoGPT"] for key, rate in rates[name].items()}
        if page == "docs/comparison.md":
            assert all(f"{rate:,.0f}" in text for rate in rates[name].values())
            assert all(f"{times[key]:.2f}" in text for key in times if key != "nanoGPT")
    lowest, highest = rates["config/tiny.py"], rates["config/small.py"]
    for key, of in (
        ("ours", lowest),
        ("ours, compiled", highest),
        ("ours, float32", lowest),
        ("ours, float32, compiled", lowest),
    ):
        assert f"{of[key] / of['nanoGPT']:.2f}" in text, key
