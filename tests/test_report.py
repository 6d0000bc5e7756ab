import html.parser
import json
import re
import shutil
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import prepare
import train
import train_tokenizer
from config import Config
from lib.text.corpus import Corpus
from tests.conftest import TINY, make_text
from tools import export
from tools.report import __main__ as report
from tools.report import published, words
from tools.report.charts import chart
from tools.report.tokenizer import smaller

SKIPPED = ("title", "code", "script", "style", "noscript")  # parts of a page that have no language


class Page(html.parser.HTMLParser):
    """What is needed of a page: its text, its tags, the addresses it names, and what it says in which language."""

    def __init__(self, path):
        super().__init__()
        self.text, self.tags, self.addresses = "", [], []
        self.said = []  # [language, text], in their order
        self.elsewhere = ""  # the text in neither language, but for SKIPPED and the pieces of a user's text
        self.spans, self.skipped = [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action")]
        self.skipped += tag in SKIPPED
        if tag == "span":
            attributes = dict(attributes)
            self.spans.append(attributes.get("lang") or (attributes.get("class") == "pieces" and "pieces"))
            self.said += [[attributes["lang"], ""]] if "lang" in attributes else []

    def handle_endtag(self, tag):
        self.skipped -= tag in SKIPPED
        if tag == "span":
            self.spans.pop()

    def handle_data(self, data):
        self.text += data
        if not any(self.spans) and not self.skipped:
            self.elsewhere += data
        elif not self.skipped and "pieces" not in self.spans:
            self.said[-1][1] += data


def test_the_report_of_a_run(run, capsys):
    assert report.main(["run"]) == 0
    out = capsys.readouterr().out
    page = Page(run / "report.html")
    last = json.loads((run / "loss_log.json").read_text(encoding="utf-8"))["records"][-1]
    for expected in (
        f"{last['val_loss']:.4f} nats",
        f"{last['val_bpc']:.4f} bits per character",
        "bigram",
        "longest copy",
    ):
        assert expected in out
    assert f"{last['val_loss']:.3f}" in page.text and "Does it write, or copy?" in page.text
    assert "首选命中率" in page.text and "它在写，还是在抄？" in page.text
    assert page.addresses == []  # opens from the disk, without a network
    assert page.tags.count("svg") == 2 and page.tags.count("path") > 3
    assert "NaN" not in page.text and "nan" not in page.text.split("const tokens")[0]


def test_a_page_says_everything_in_both_languages(run, home):
    assert report.main(["run"]) == report.main(["--tokenizer", *TINY]) == export.main(["run", "--format=html"]) == 0
    sentence, chinese = re.compile("[A-Za-z]+,?( [a-z]+,?){2,}"), re.compile("[\u4e00-\u9fff]")
    for path, least in (
        (run / "report.html", 50),
        (home / "data" / "book" / "bpe400" / "tokenizer.html", 30),
        (run / "model.html", 17),
    ):
        page = Page(path)
        languages, texts = zip(*page.said, strict=True)
        assert languages == ("en", "zh") * (len(texts) // 2) and len(texts) >= 2 * least
        for english, translated in zip(texts[::2], texts[1::2], strict=True):
            assert english.strip() and translated.strip()
            assert not chinese.search(english), english
            assert not sentence.search(translated), translated
            assert chinese.search(translated) or translated in ("token", "nats/token", "vocab_size", "Python")
        assert not sentence.search(page.elsewhere), sentence.search(page.elsewhere)[0]


@pytest.mark.parametrize("said", [said for said in vars(words).values() if isinstance(said, words.Said)])
def test_both_languages_give_the_same_figures(said):
    english, translated = (sorted(re.findall("{.*?}|`.*?`", text)) for text in said)
    assert english == translated


def test_a_page_is_written_where_out_says(run, tmp_path, fails):
    """As for a run, or a tokenizer, that lies in a place that is read-only."""
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "pages" / "mine.html"
    for flags in (["run"], ["--tokenizer", *TINY]):
        assert report.main([*flags, f"--out={out}"]) == 0
        assert "<html" in out.read_text(encoding="utf-8")
        assert "name a file" in fails(report.main, [*flags, f"--out={out.parent}"], code=2)
        out.unlink()
    assert set(tmp_path.rglob("*")) == {*before, out.parent}


@pytest.mark.parametrize("steps", [[0], [0, 10], list(range(0, 1001, 10))])
def test_a_chart_takes_font_and_colours_from_the_page(steps):
    losses = np.linspace(8, 5, len(steps))
    figures = [([], []), (steps, losses)], {"xz": 6.20, "bigram": 6.19}
    svg = chart(*figures)
    assert svg == chart(*figures)
    root = ElementTree.fromstring(svg.replace("<svg", "<svg xmlns:xlink='http://www.w3.org/1999/xlink'"))
    assert set(root.attrib) == {"viewBox"}  # as wide as its place in the page
    assert "font-family" not in svg and "font-size" not in svg and "#0" not in re.sub('href="#m', "", svg)
    assert all(f"var(--{name})" in svg for name in ("orange", "line", "soft", "level"))
    labels = {text.text: float(text.get("y")) for text in root.iter("text")}
    assert labels["bigram 6.19"] - labels["xz 6.20"] == pytest.approx(28, abs=0.1)
    names = {name for label in labels for name in re.findall("[^\\W\\d]+", label)}
    assert names == {"xz", "bigram"}  # All other words are in the page, in two languages.


def test_the_published_run_stands_beside_ones_own(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(published, "LOGS", tmp_path / "results")
    shutil.copytree(run, tmp_path / "results" / "like-mine")
    assert report.main(["run"]) == 0
    losses = [r["val_loss"] for r in json.loads((run / "loss_log.json").read_text())["records"] if "val_loss" in r]
    rows = [f"{loss:.2f} ({loss:.2f}) after {n}M" for n, loss in zip(("0.00128", "0.00256"), losses[1:], strict=True)]
    assert ", ".join(rows) in capsys.readouterr().out
    page = Page(run / "report.html").text
    assert "published" in page and "1,280" in page and "2,560" in page
    path = tmp_path / "results" / "like-mine" / "loss_log.json"
    log = json.loads(path.read_text())
    log["records"] = [record for record in log["records"] if record["step"] in (0, 20)]
    path.write_text(json.dumps(log))
    assert report.main(["run"]) == 0  # It says nothing of what is before its first evaluation.
    out = capsys.readouterr().out
    assert rows[1] in out and "after 0.00128M" not in out
    path.write_text(path.read_text().replace('"n_embd": 32', '"n_embd": 64'))
    assert report.main(["run"]) == 0  # A model of another shape has nothing to do with it.
    assert "of the published run" not in capsys.readouterr().out


def test_what_is_not_installed(run, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "jinja2 is not installed" in fails(report.main, ["run"])


def test_a_name_may_hold_anything(run, capfd):
    name = "三国 $x^2_ & <b> `龘"
    run = run.rename(run.parent / name)
    assert report.main([name]) == 0
    assert name in Page(run / "report.html").text and capfd.readouterr().err == ""


def test_weights_that_were_not_evaluated(run, capsys):
    """As after Ctrl-C between two evaluations: their loss is measured."""
    path = run / "loss_log.json"
    log = json.loads(path.read_text(encoding="utf-8"))
    loss = log["records"][-1].pop("val_loss")
    path.write_text(json.dumps(log), encoding="utf-8")
    assert report.main(["run", "--last"]) == 0
    assert float(re.search(r"validation +([\d.]+) nats", capsys.readouterr().out)[1]) == pytest.approx(loss, abs=1e-3)


def test_a_text_learned_by_heart_is_recognized(home, capsys):
    (home / "data" / "book").mkdir(parents=True)
    (home / "data" / "book" / "corpus.txt").write_text(make_text(30), encoding="utf-8")
    flags = [*TINY, "--n_layer=1", "--n_embd=64", "--max_steps=300", "--eval_interval=25"]
    for script in (train_tokenizer, prepare, train):
        assert script.main(flags) == 0
    capsys.readouterr()
    assert report.main(["run", "--last"]) == 0
    assert "MEMORISING" in capsys.readouterr().out
    assert report.main(["run"]) == 0  # best.pt is from before it knew the text by heart
    assert "OVERFITTING: It has been overfitting since step" in capsys.readouterr().out


def test_text_is_never_taken_for_html(home, capsys):
    evil = "</script><script>alert(1)</script><b>&lt;{{ 7 * 7 }}"
    (home / "data" / "book").mkdir(parents=True)
    (home / "data" / "book" / "corpus.txt").write_text((make_text(2) + evil + "\n") * 60, encoding="utf-8")
    flags = [*TINY, f"--prompts={evil}", "--max_steps=6", "--warmup_steps=1", "--eval_interval=3"]
    for script in (train_tokenizer, prepare, train):
        assert script.main(flags) == 0
    assert report.main([]) == 0
    assert report.main(["--tokenizer", *TINY]) == 0
    for page in (Page(home / "out/run/report.html"), Page(home / "data/book/bpe400/tokenizer.html")):
        assert page.tags.count("script") == 3 and "{{ 7" in page.text
    assert evil in Page(home / "out/run/report.html").text


def test_a_run_that_its_patience_ended(run, capsys):
    """Its last evaluation is worse than the one before it, and it has not come to its last step."""
    path = run / "loss_log.json"
    log = json.loads(path.read_text(encoding="utf-8"))
    log["records"][-1]["val_loss"] = log["records"][10]["val_loss"] * 1.001
    path.write_text(json.dumps(log), encoding="utf-8")
    for name in ("ckpt.pt", "best.pt"):
        checkpoint = torch.load(run / name, weights_only=True)
        checkpoint["config"] |= {"max_steps": 100, "patience": 1}
        torch.save(checkpoint, run / name)
    assert report.main(["run"]) == 0
    out = capsys.readouterr().out
    assert "UNDERTRAINED" in out and "--resume --patience=0" in out and "come to its end" not in out


def test_documents_shorter_than_any_copy(home, capsys):
    (home / "data" / "book").mkdir(parents=True)
    names = "".join(json.dumps({"text": name}) + "\n" for name in ["曹操", "刘备", "孙权"] * 200)
    (home / "data" / "book" / "corpus.jsonl").write_text(names, encoding="utf-8")
    for script in (train_tokenizer, prepare, train):
        assert script.main([*TINY, "--n_embd=16"]) == 0
    assert report.main([]) == 0
    assert "(2 characters)" in capsys.readouterr().out


def test_the_report_of_a_tokenizer(book, capsys):
    assert report.main(["--tokenizer", *TINY]) == 0
    out = capsys.readouterr().out
    assert "400 tokens" in out and "modern Chinese" in out and "vocab_size" in out
    page = Page(book / "data" / "book" / "bpe400" / "tokenizer.html")
    assert "What would another vocab_size give?" in page.text and page.addresses == []
    assert not (book / "out").exists()


def test_a_smaller_vocabulary_is_the_beginning_of_a_larger_one(book):
    config = Config(dataset="book", vocab_size=600)
    sample, _ = train_tokenizer.sample_corpus(Corpus(config))
    large, small = train_tokenizer.new_tokenizer(), train_tokenizer.new_tokenizer()
    train_tokenizer.learn(large, sample, config)
    train_tokenizer.learn(small, sample, Config(dataset="book", vocab_size=400))
    cut = json.loads(smaller(large, 400).to_str())
    assert cut == json.loads(small.to_str()) and large.get_vocab_size() > 400


def test_what_cannot_be_judged(run, home, fails, monkeypatch):
    log = run / "loss_log.json"
    text = log.read_text(encoding="utf-8")
    records = json.loads(text)["records"]
    without = [{k: v for k, v in r.items() if not k.startswith("val_")} for r in records]
    log.write_text(json.dumps(json.loads(text) | {"records": without}), encoding="utf-8")
    assert "no evaluation yet" in fails(report.main, ["run"])
    log.write_text(text, encoding="utf-8")
    assert prepare.main([*TINY, "--val_fraction=0.2"]) == 0  # the copies would be sought in another text
    assert "other tokens" in fails(report.main, ["run"])
    assert prepare.main(TINY) == 0
    tokenizer = home / "data" / "book" / "bpe400" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert "prepare.py" in fails(report.main, ["run"])
    shutil.rmtree(home / "data")
    assert "prepare.py" in fails(report.main, ["run"]) and not (run / "report.html").exists()
    assert "run train_tokenizer.py" in fails(report.main, ["--tokenizer", *TINY])
    assert "no run named" in fails(report.main, ["other"])
