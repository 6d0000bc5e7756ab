"""What tools.export writes, opened by the real transformers and by the reader of the gguf package."""

import json
import logging
import shutil

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from sample import load
from tests.conftest import SCRIPTS
from tools import export, page

TEXTS = (
    "却说曹操引兵而去，玄德大喜。",
    "Hello, world! It's 1949年 3.14159 and 1,000,000.",
    "😀 emoji 👨‍👩‍👧 and 𠮷野家",
    "def f(x):\n    return x ** 2  # code\n\n\tif a != b: pass",
    "  spaces  and\ttabs \n\n\n  and\r\nlines  ",
    "control \x00\x01\x1b[0m \u200b\ufeff characters",
    "かな カナ 한국어 العربية",
    "",
)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The folder of a run with hf/ and model.gguf in it."""
    run = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(trained / "out" / "run", run)
    assert export.main([str(run)]) == 0
    assert export.main([str(run), "--format=gguf"]) == 0
    assert (run / "model.gguf").stat().st_size > 50_000
    return run


@pytest.fixture(scope="module")
def ours(exported):
    return load(str(exported))


@pytest.fixture(scope="module")
def theirs(exported):
    return AutoModelForCausalLM.from_pretrained(exported / "hf").eval()


def test_transformers_computes_the_same(ours, theirs):
    assert type(theirs).__name__ == "Qwen3ForCausalLM" and theirs.dtype == torch.float32
    model, idx = ours.model, torch.randint(4, 300, (3, ours.model.config.block_size))
    with torch.inference_mode():
        logits = theirs(idx).logits
        assert (model.lm_head(model.hidden(idx)) - logits).abs().max() <= 1e-5 * max(1, logits.abs().max())


def test_transformers_tokenizes_the_same(exported, ours):
    tokenizer = AutoTokenizer.from_pretrained(exported / "hf")
    for text in TEXTS:
        own = [ours.bos, *ours.tokenizer.encode(text, add_special_tokens=False).ids]
        assert tokenizer(text).input_ids == own
        assert tokenizer.decode(own, skip_special_tokens=True) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)


def test_a_literal_eos_stays_text_where_it_is_asked_to(exported, ours):
    text = "a<eos>b<bos>"
    tokenizer = AutoTokenizer.from_pretrained(exported / "hf", split_special_tokens=True)
    assert tokenizer(text).input_ids == ours.encode(text)[0].tolist()


def test_transformers_generates_the_same(exported, ours, theirs):
    tokenizer = AutoTokenizer.from_pretrained(exported / "hf")
    for prompt in ("曹操", "hello", ""):
        inputs = tokenizer(prompt, return_tensors="pt")
        room = ours.model.config.block_size - inputs.input_ids.size(1)
        ids = theirs.generate(**inputs, do_sample=False, max_new_tokens=room)[0]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text == ours.generate(prompt, max_new_tokens=room, temperature=0)


def test_a_padded_batch_is_continued_as_each_text_alone(exported, ours, theirs):
    tokenizer = AutoTokenizer.from_pretrained(exported / "hf")
    inputs = tokenizer(["曹操", "却说曹操引兵而去，玄德大喜。"], padding=True, return_tensors="pt")
    settings = {"do_sample": False, "max_new_tokens": 10, "output_scores": True, "return_dict_in_generate": True}
    found = theirs.generate(**inputs, **settings)
    for ids, scores in zip(found.sequences, torch.stack(found.scores, dim=1), strict=True):
        alone = ids[ids != tokenizer.pad_token_id][None]
        with torch.inference_mode():
            logits = ours.model.lm_head(ours.model.hidden(alone))[0, -11:-1]
        assert (scores - logits).abs().max() <= 1e-5 * logits.abs().max()


def test_transformers_samples_as_we_do(exported, ours, theirs):
    """With top_p at 1 no token may be left out."""
    inputs = AutoTokenizer.from_pretrained(exported / "hf")("曹操", return_tensors="pt")
    settings = {"top_p": 1.0, "max_new_tokens": 1, "output_scores": True, "return_dict_in_generate": True}
    scores = theirs.generate(**inputs, **settings).scores[0]
    with torch.inference_mode():
        logits = ours.model(ours.encode("曹操"))
    assert (scores - logits / 0.8).abs().max() <= 1e-5 * logits.abs().max()
    assert theirs.generation_config.top_p == 0.95 and theirs.generation_config.top_k > 0  # vLLM may refuse 0.


def test_nothing_is_warned_of(exported, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    logging.Logger.warning_once.cache_clear()  # It keeps what was said in other tests.
    model, tokenizer = (kind.from_pretrained(exported / "hf") for kind in (AutoModelForCausalLM, AutoTokenizer))
    model.generate(**tokenizer(["曹操", "却说曹操引兵而去"], padding=True, return_tensors="pt"), max_new_tokens=1)
    assert not caplog.messages


def test_the_pipeline_of_the_card(exported, ours):
    generate = pipeline("text-generation", model=str(exported / "hf"))
    text = generate("曹操", max_new_tokens=10, do_sample=False)[0]["generated_text"]
    assert text == ours.generate("曹操", max_new_tokens=10, temperature=0)


def test_the_card_tells_the_figures_of_the_run(exported):
    card = (exported / "hf" / "README.md").read_text(encoding="utf-8")
    log = json.loads((exported / "loss_log.json").read_text(encoding="utf-8"))
    best = min(r["val_loss"] for r in log["records"] if "val_loss" in r)
    assert f"{best:.4f} nats" in card and "(loss.png)" in card and (exported / "hf" / "loss.png").stat().st_size > 1000


def test_a_renamed_run_is_known_by_its_new_name(exported, tmp_path, recwarn):
    for name in ("a$b_$c", "_小说", "100%{}"):
        run = tmp_path / name
        shutil.copytree(exported, run, ignore=shutil.ignore_patterns("hf", "model.gguf"))
        assert export.main([str(run)]) == export.main([str(run), "--format=gguf"]) == 0
        assert f"\n# `{name}`\n" in (run / "hf" / "README.md").read_text(encoding="utf-8")
        assert gguf.GGUFReader(run / "model.gguf").get_field("general.name").contents() == name
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 0), ("f16", 1e-3), ("bf16", 8e-3), ("q8_0", 1e-2)])
def test_gguf_holds_the_same_weights(exported, ours, theirs, tmp_path, kind, tolerance):
    path = tmp_path / "model.gguf"
    assert export.main([str(exported), "--format=gguf", f"--type={kind}", f"--out={path}"]) == 0
    reader = gguf.GGUFReader(path)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, ours.model.config.n_layer)
    tensors = {t.name: t for t in reader.tensors}
    weights = {n: w for n, w in theirs.state_dict().items() if n != "lm_head.weight"}
    assert len(tensors) == len(weights)
    for name, weight in weights.items():
        tensor = tensors[names.get_name(name, try_suffixes=(".weight",))]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(weight.shape)
        assert np.abs(values - weight.numpy()).max() <= tolerance * weight.abs().max()
        assert tensor.tensor_type.name.lower() == (kind if weight.dim() == 2 else "f32")
    assert reader.get_field("tokenizer.ggml.tokens").contents()[:4] == ["<pad>", "<bos>", "<eos>", "<unk>"]
    assert reader.get_field("tokenizer.ggml.pre").contents() == "deepseek-v3"


def test_half_precision_for_transformers(exported, theirs, tmp_path):
    assert export.main([str(exported), "--type=bf16", f"--out={tmp_path / 'half'}"]) == 0
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half", torch_dtype="auto")
    assert half.dtype == torch.bfloat16
    for name, weight in theirs.state_dict().items():
        assert torch.equal(half.state_dict()[name], weight.bfloat16())


def test_the_page_is_one_small_file(exported):
    """What it computes is checked in a browser: tests/test_page.py."""
    assert export.main([str(exported), "--format=html"]) == 0
    text = (exported / "model.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text and " src=" not in text and " href=" not in text
    n_weights = sum(weight.numel() for weight in load(str(exported)).model.parameters())
    assert len(text) < 1.5 * n_weights + 65_000


def test_the_published_page_is_of_todays_templates():
    text = (SCRIPTS / "docs" / "tiny.html").read_text(encoding="utf-8")
    assert page.render(*page.parts(text)) == text, "run: python -m tools.page docs/tiny.html"


def test_a_page_is_written_anew(exported, tmp_path, fails):
    old = exported / "model.html"
    assert export.main([str(exported), "--format=html", "--title=<b>曹操</b>"]) == 0
    written = old.read_text(encoding="utf-8")
    assert "<h1>&lt;b&gt;曹操&lt;/b&gt;</h1>" in written
    changed = tmp_path / "page.html"
    changed.write_text(written.replace("<h1>", "<h1>An earlier version: "), encoding="utf-8")
    assert page.main([str(changed)]) == 0
    assert changed.read_text(encoding="utf-8") == written
    changed.write_text("<html></html>", encoding="utf-8")
    assert "is no page that tools.export" in fails(page.main, [str(changed)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}}, "splits text"),
        ({"normalizer": {"type": "NFC"}}, "splits text"),
        ({"model": {"type": "WordLevel", "vocab": {"曹操": 0}, "unk_token": "a"}}, "byte-level BPE"),
    ],
)
def test_a_page_is_refused_where_the_tokenizer_is_another(exported, tmp_path, fails, changes, words):
    checkpoint = torch.load(exported / "best.pt", weights_only=True)
    checkpoint["tokenizer"] = json.dumps(json.loads(checkpoint["tokenizer"]) | changes)
    torch.save(checkpoint, tmp_path / "best.pt")
    assert words in fails(export.main, [str(tmp_path), "--format=html"])
    assert not (tmp_path / "model.html").exists()


def test_a_page_is_refused_where_it_would_be_too_large(exported, fails, monkeypatch):
    (exported / "model.html").write_text("mine")
    for limit, words in (("LARGEST_VOCABULARY", "tokens"), ("LARGEST_PAGE", "MB")):
        with monkeypatch.context() as patch:
            patch.setattr(page, limit, 100)
            error = fails(export.main, [str(exported), "--format=html"])
            assert words in error and "--format=gguf" in error
    assert (exported / "model.html").read_text() == "mine"


def test_mistakes_are_one_line(exported, tmp_path, fails):
    assert "f32, f16, bf16" in fails(export.main, [str(exported), "--type=q8_0"])
    assert "q8_0, f16" in fails(export.main, [str(exported), "--format=html", "--type=bf16"])
    assert "no run named" in fails(export.main, ["nothing"])
    (tmp_path / "file").write_bytes(b"mine")
    assert "folder" in fails(export.main, [str(exported), f"--out={tmp_path / 'file'}"])
    for kind in ("gguf", "html"):
        assert "file" in fails(export.main, [str(exported), f"--format={kind}", f"--out={tmp_path}"])
    assert (tmp_path / "file").read_bytes() == b"mine"
