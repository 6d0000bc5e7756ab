"""tools.recipe: what it chooses, for which text, machine and time, and what it says where it cannot choose."""

import json

import pytest

import train
from config import load_config
from lib.errors import ArgumentParser
from tests.conftest import SCRIPTS, make_text
from tools import recipe, scaling
from tools.lab import law

# Two cores with bfloat16: {rung: (parameters, seconds of a step, seconds of each token in it)}.
SPEEDS = dict(
    zip(
        scaling.LADDER,
        [
            (0.35e6, 0.008, 24e-6),
            (0.67e6, 0.012, 44e-6),
            (1.1e6, 0.015, 60e-6),
            (2.3e6, 0.025, 130e-6),
            (3.9e6, 0.030, 190e-6),
            (11.2e6, 0.090, 450e-6),
            (28e6, 0.20, 1.1e-3),
        ],
        strict=True,
    )
)


@pytest.fixture
def small(home, monkeypatch):
    """A folder of one's own, and a probe of a second."""
    monkeypatch.setattr(recipe, "ROOT", home)
    monkeypatch.setattr(scaling, "PROBE_TOKENS", 20_000)
    monkeypatch.setattr(scaling, "LADDER", scaling.LADDER[:2])
    (home / "config").mkdir()
    return home


def settings_of(path):
    return load_config([str(path)], ArgumentParser())[0]


# --- the choice


def test_for_the_demo_it_chooses_the_demo():
    tiny = settings_of("config/tiny.py")
    text = scaling.Text(433_218, 6.77)
    run = scaling.choose(text, SPEEDS, 2.0)
    chosen = scaling.settings_for(run.rung, run.tokens, text.tokens)
    assert scaling.vocab_size_for(1_788_023) == tiny.vocab_size
    assert run.rung == (3, 4, 128, 128)
    exact = scaling.settings_for(run.rung, tiny.max_steps * tiny.batch_size * tiny.block_size, text.tokens)
    assert exact == {key: getattr(tiny, key) for key in exact}
    assert chosen.keys() == exact.keys()


@pytest.mark.parametrize(
    ("tokens", "scale", "minutes", "width"), [(59_000, 7.4, 1, 128), (433_218, 6.77, 60, 384), (20e6, 3.5, 60, 256)]
)
def test_a_longer_text_and_more_time_are_worth_a_larger_model(tokens, scale, minutes, width):
    assert scaling.choose(scaling.Text(tokens, scale), SPEEDS, minutes).rung[2] == width


@pytest.mark.parametrize(("epochs", "min_lr", "averaging"), [(1, 0.0002, 0.05), (4, 0.002, 0.2)])
def test_the_learning_rate_stays_high_where_a_text_is_read_often(epochs, min_lr, averaging):
    settings = scaling.settings_for((3, 4, 128, 128), epochs * 1e6, 1e6)
    assert (settings["learning_rate"], settings["min_lr"], settings["averaging"]) == (0.003, min_lr, averaging)


# --- the law


def test_the_law_is_what_the_runs_say():
    runs = law.read_runs(json.loads(law.RESULTS.read_text(encoding="utf-8")))
    assert law.fit(runs) == pytest.approx(scaling.LAW, abs=1e-4)
    rows, error = law.table(runs)
    assert error == pytest.approx(scaling.ERROR, abs=5e-4)
    for page in ("recipes.md", "recipes.zh-CN.md"):
        assert "\n".join(rows) in (SCRIPTS / "docs" / page).read_text(encoding="utf-8")
    missed = []
    for row in rows:
        _, text, minutes, _, predicted, found, best, tiny, _ = row.split("|")
        assert float(found) <= float(best.partition(":")[2]) + 0.03 and float(found) <= float(tiny.strip() or 99), row
        missed += [(text.strip(), int(minutes))] * (abs(float(predicted) - float(found)) > 0.1)
    assert missed == [("sanguo_540k", 16), ("sanguo_540k", 60), ("poetry_25300k", 60)]  # as docs/recipes.md says


# --- the script


def test_a_text_becomes_a_config_that_can_be_trained(small, capsys, monkeypatch):
    (small / "novel.txt").write_text(make_text(400), encoding="utf-8")
    monkeypatch.chdir(small)
    assert recipe.main(["novel.txt", "--minutes=1", "--prompts=曹操", "--dtype=float32"]) == 0
    printed = capsys.readouterr().out
    path = small / "config" / "novel.py"
    settings = settings_of(path)
    assert settings.dataset == settings.run == "novel" and settings.corpus == str(small / "novel.txt")
    assert (settings.prompts, settings.dtype, settings.optimizer) == ("曹操", "float32", "muon")
    text = path.read_text(encoding="utf-8")
    assert "max_steps = " in text and "# what the time is enough for" in text and " epochs, " in text
    rows = [line.split() for line in printed.splitlines() if line.startswith("  ") and "M" in line]
    assert [float(row[0]) for row in rows] == [0.25, 1.0, 4.0]
    assert float(rows[0][3]) >= float(rows[2][3])  # More time, fewer bits.
    assert "would hardly help: the text is too short" in printed
    assert printed.endswith("next: python train.py config/novel.py\n")
    assert train.main([str(path), "--max_steps=2", "--eval_interval=2", "--warmup_steps=0"]) == 0


def test_what_the_user_has_written_stays(small, fails):
    (small / "novel.txt").write_text(make_text(100), encoding="utf-8")
    (small / "config" / "novel.py").write_text("n_layer = 7\n", encoding="utf-8")
    for more in ([], ["--overwrite"]):
        assert "config/novel.py is there" in fails(recipe.main, [str(small / "novel.txt"), *more])
    assert recipe.main([str(small / "novel.txt"), "--dataset=mine"]) == 0
    assert "--overwrite replaces" in fails(recipe.main, [str(small / "novel.txt"), "--dataset=mine"])
    assert recipe.main([str(small / "novel.txt"), "--dataset=mine", "--overwrite"]) == 0
    assert (small / "config" / "novel.py").read_text(encoding="utf-8") == "n_layer = 7\n"


def test_a_text_can_be_too_short(small, fails, capsys):
    path = small / "novel.txt"
    path.write_text(make_text(100)[:500], encoding="utf-8")
    assert "500 characters are too few" in fails(recipe.main, [str(path)])
    path.write_text(make_text(300)[:3000], encoding="utf-8")
    assert recipe.main([str(path)]) == 0
    assert "words, not sentences" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["line.txt", "many.jsonl"])
def test_one_line_and_many_documents(small, name):
    text = make_text(300)
    if name == "line.txt":
        text = text.replace("\n", "")
    else:
        text = "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in text.splitlines())
    (small / name).write_text(text, encoding="utf-8")
    assert recipe.main([str(small / name)]) == 0
    assert settings_of(small / "config" / f"{name.partition('.')[0]}.py").n_embd in (64, 96)


def test_a_time_can_be_too_short(small, fails):
    (small / "novel.txt").write_text(make_text(20_000), encoding="utf-8")
    assert "the tokens alone take" in fails(recipe.main, [str(small / "novel.txt"), "--minutes=0.01"])
    assert not (small / "config" / "novel.py").exists()


def test_a_busy_machine_is_named(small, monkeypatch, capsys):
    (small / "novel.txt").write_text(make_text(300), encoding="utf-8")
    monkeypatch.setattr(recipe, "probe", lambda *_: (7.0, [0.01] * 8 + [0.03] * 4))
    assert recipe.main([str(small / "novel.txt")]) == 0
    assert "something else is at work here (a step took 10 to 30 ms)" in capsys.readouterr().out


def test_it_names_the_size_that_was_asked_for(small):
    (small / "novel.txt").write_text(make_text(300), encoding="utf-8")
    for parameters, width in ((1e5, 64), (1e7, 96)):
        words = [str(small / "novel.txt"), f"--parameters={parameters:g}", "--overwrite"]
        assert recipe.main(words) == 0
        assert settings_of(small / "config" / "novel.py").n_embd == width
