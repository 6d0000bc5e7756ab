import json
import shutil

import matplotlib.image
import pytest
from matplotlib import font_manager

import plot_loss
from lib.run_log import Run


def test_a_run_becomes_a_picture(run, capsys):
    assert plot_loss.main([]) == 0
    assert f"saved {run / 'loss.png'}" in capsys.readouterr().out
    assert matplotlib.image.imread(run / "loss.png").shape[0] > 500


def test_what_is_drawn(run):
    figure = plot_loss.draw([Run("run")], "step")
    loss, rate = figure.axes
    labels = [text.get_text() for text in loss.get_legend().get_texts()]
    assert labels[:2] == ["training", "validation"] and labels[2].startswith("unigram baseline")
    log = json.loads((run / "loss_log.json").read_text(encoding="utf-8"))["records"]
    best = min((r for r in log if "val_loss" in r), key=lambda r: r["val_loss"])
    stars = [line for line in loss.lines if line.get_marker() == "*"]
    assert [tuple(line.get_xydata()[0]) for line in stars] == [(best["step"], best["val_loss"])]
    assert rate.lines[0].get_ydata().tolist() == [r["lr"] for r in log]
    assert loss.child_axes[0].get_ylabel() == "perplexity"


def test_runs_overlay_in_one_picture(run, home):
    shutil.copytree(run, run.parent / "second")
    out = home / "both.svg"
    assert plot_loss.main(["run", str(run.parent / "second"), f"--out={out}"]) == 0
    assert out.read_bytes().startswith(b"<?xml")
    assert plot_loss.main(["run", "second"]) == 0
    assert (home / "out" / "loss.png").exists()


def test_runs_of_unlike_batches_are_compared_by_tokens(run):
    other = Run("run")
    for record in other.records:
        record["tokens"] *= 2
    assert other.step_tokens == 2 * Run("run").step_tokens
    figure = plot_loss.draw([Run("run"), other], "tokens")
    assert figure.axes[1].get_xlabel() == "training tokens"


@pytest.mark.parametrize("installed", [True, False])
def test_chinese_names(run, monkeypatch, capsys, recwarn, installed):
    fonts = [font for font in font_manager.fontManager.ttflist if font.name not in plot_loss.CJK_FONTS]
    if installed:  # stands for a CJK font; that its glyphs are real is the font's affair
        font = font_manager.FontEntry(**{**vars(fonts[0]), "name": "SimHei"})
        monkeypatch.setattr(font_manager.fontManager, "ttflist", [*fonts, font])
        assert plot_loss.readable("三国") == "三国"
        return
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    path = run / "loss_log.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"run": "run"', '"run": "三国$1"'), encoding="utf-8")
    assert plot_loss.main(["run"]) == 0
    assert "no font with Chinese characters" in capsys.readouterr().err
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_bad_logs(run, home, fails):
    path = run / "loss_log.json"
    for content in (
        "",
        "{",
        "[]",
        "{}",
        '{"records": 3, "config": {}}',
        '{"records": [], "config": {}}',
        "[" * 100_000,
    ):
        path.write_text(content, encoding="utf-8")
        assert "loss_log.json" in fails(plot_loss.main, ["run"])
    path.write_text('{"records": [3, {"step": 1, "train_loss": "x", "val_loss": NaN}], "config": {}}', encoding="utf-8")
    assert "loss_log.json" in fails(plot_loss.main, ["run"])
    path.unlink()
    assert "loss_log.json" in fails(plot_loss.main, ["run"])
    assert "no run named 'other'" in fails(plot_loss.main, ["other"])


def test_no_run_and_no_such_format(run, home, fails):
    assert ".xyz" in fails(plot_loss.main, ["run", "--out=curve.xyz"])
    shutil.rmtree(home / "out")
    assert "train one first" in fails(plot_loss.main, [])
