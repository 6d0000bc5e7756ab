import json
import shutil
from xml.etree import ElementTree

import matplotlib.image
import pytest
from matplotlib import font_manager

import plot_loss
from lib.run.runs import Run


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
    assert plot_loss.draw([other], "tokens").axes[1].lines[0].get_xdata()[-1] == 2 * 20 * 4 * 32


NAMES = ["a$b_$c", "_小说", "100%{}^\\", "<&\"'\n😀"]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_name_may_hold_anything(run, home, capsys, recwarn, suffix):
    for name in NAMES:
        shutil.copytree(run, run.parent / name, dirs_exist_ok=True)
    for runs in (NAMES, NAMES[1:2]):
        assert plot_loss.main([*runs, f"--out={home / 'loss'}.{suffix}"]) == 0
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
    assert not [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    if suffix == "svg":
        ElementTree.parse(home / "loss.svg")


def test_names_are_drawn_as_they_are(run):
    for name in ("a$b_$c", "renamed"):
        run = run.rename(run.parent / name)
        loss = plot_loss.draw([Run(name), Run(str(run))], "step").axes[0]
        texts = [loss.title, *loss.get_legend().get_texts()]
        assert loss.get_title() == f"{name} · {name}" and texts[1].get_text() == f"training – {name}"
        assert len(texts) == 6 and not any(text.get_parse_math() for text in texts)


def test_characters_that_no_font_has(monkeypatch, capsys):
    fonts = [font for font in font_manager.fontManager.ttflist if font.name not in plot_loss.CJK_FONTS]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    assert plot_loss.drawable("é小说") == r"é\u5c0f\u8bf4"
    assert "install Noto Sans CJK" in capsys.readouterr().err
    assert plot_loss.drawable("é") == "é" and capsys.readouterr().err == ""


def test_a_chinese_font_is_used(monkeypatch, capsys):
    paths = [path for path in font_manager.findSystemFonts() if "CJK" in path and "Sans" in path]
    if not paths:
        pytest.skip("no such font is installed")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    for path in paths:
        font_manager.fontManager.addfont(path)
    assert plot_loss.drawable("小说") == "小说" and capsys.readouterr().err == ""


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
