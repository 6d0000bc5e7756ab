"""Training that begins with the weights of a Qwen3 model, made and saved by the real transformers, or of a run."""

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import prepare
import train
import train_tokenizer
from lib.tokens.prepared import read_meta
from sample import load
from tests.conftest import TINY, make_text
from tools import export

FLAGS = [flag for flag in TINY if not flag.startswith(("--n_", "--vocab_size", "--learning_rate", "--run"))]
FLAGS += ["--init_from=model", "--learning_rate=1e-3", "--embedding_lr=0", "--run=tuned"]


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    """A small model as Qwen3 is published: its kind of tokenizer, spare rows, a head size of its own, untied."""
    folder = tmp_path_factory.mktemp("qwen3") / "model"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(export.QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([make_text(300)], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    eos = tokenizer.token_to_id("<|endoftext|>")
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=tokenizer.get_vocab_size() + 20,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=20,
            max_position_embeddings=512,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=False,
            bos_token_id=eos,
            eos_token_id=eos,
        )
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(torch.randn_like(weight) * (0.1 if "norm" in name else 0.02))
    model.save_pretrained(folder, max_shard_size="100KB")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1  # several files, as large models have
    return folder


@pytest.fixture
def model_folder(book, qwen3, monkeypatch):
    """The model, named `model` from the working folder, beside a data/book with a corpus."""
    shutil.copytree(qwen3, book / "model")
    monkeypatch.chdir(book)
    return book / "model"


def val_losses(run_dir):
    log = json.loads((run_dir / "loss_log.json").read_text(encoding="utf-8"))
    return [r["val_loss"] for r in log["records"] if "val_loss" in r]


def test_a_qwen3_model_is_trained_on(book, model_folder, capsys):
    assert prepare.main(FLAGS) == 0
    folder = book / "data" / "book" / "model"
    meta, theirs = read_meta(folder), AutoModelForCausalLM.from_pretrained(model_folder).eval()
    ids = np.fromfile(folder / "val.bin", dtype="<u2").astype(np.int64)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    text = (book / "data" / "book" / "corpus.txt").read_text(encoding="utf-8")
    assert tokenizer.decode(ids[:-1]) == text[-meta["val"]["characters"] :]  # no <bos> in front
    assert ids[-1] == tokenizer.eos_token_id

    assert train.main(FLAGS) == 0
    losses = val_losses(book / "out" / "tuned")
    starts = np.arange((len(ids) - 1) // 32) * 32
    windows = torch.from_numpy(ids[starts[:, None] + np.arange(33)])
    with torch.inference_mode():
        logits = theirs(windows[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0] - 0.1

    # and back: what was tuned here, opened there
    assert export.main(["tuned"]) == 0
    tuned, again = load("tuned"), AutoModelForCausalLM.from_pretrained(book / "out" / "tuned" / "hf").eval()
    model = tuned.model
    with torch.inference_mode():
        logits = again(windows[:4, :-1]).logits
        assert (model.lm_head(model.hidden(windows[:4, :-1])) - logits).abs().max() < 1e-5 * logits.abs().max()
    for text in ("曹操 hello <think> 1949\n", ""):
        after = AutoTokenizer.from_pretrained(book / "out" / "tuned" / "hf")(text)
        assert list(after.input_ids) == list(tokenizer(text).input_ids)
    assert again.config.eos_token_id == tokenizer.eos_token_id
    assert isinstance(tuned.generate("", max_new_tokens=5, seed=0), str)  # without <bos>, and with spare rows
    assert export.main(["tuned", "--format=gguf"]) == 0

    # the circle: the export is a model to begin with
    flags = [*FLAGS, f"--init_from={book / 'out' / 'tuned' / 'hf'}", "--run=again", "--max_steps=1"]
    assert prepare.main(flags) == 0 and train.main(flags) == 0
    assert val_losses(book / "out" / "again")[0] == pytest.approx(min(losses), abs=1e-5)


def test_a_run_is_trained_on(run, monkeypatch):
    home = run.parent.parent
    flags = [*FLAGS, "--init_from=run"]
    assert prepare.main(flags) == 0 and train.main(flags) == 0
    assert val_losses(home / "out" / "tuned")[0] == pytest.approx(min(val_losses(run)), abs=1e-6)
    assert train.main([*flags, "--max_steps=30", "--resume"]) == 0
    assert load("tuned").bos == 1


def test_a_large_vocabulary_takes_four_bytes_a_token(book, model_folder):
    path = model_folder / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"post_processor": None}
    n = max(token["id"] for token in settings["added_tokens"]) + 1
    more = [{**settings["added_tokens"][0], "id": i, "content": f"<{i}>"} for i in range(n, 70_000)]
    path.write_text(json.dumps(settings | {"added_tokens": settings["added_tokens"] + more}), encoding="utf-8")
    assert prepare.main(FLAGS) == 0
    folder = book / "data" / "book" / "model"
    meta = read_meta(folder)
    assert meta["dtype"] == "uint32" and (folder / "train.bin").stat().st_size == 4 * meta["train"]["tokens"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llama"}, ("model_type", "llama", "qwen3")),
        ({"model_type": "qwen3_moe"}, ("model_type", "qwen3_moe", "dense")),
        ({"attention_bias": True}, ("attention_bias", "True")),
        ({"hidden_act": "gelu"}, ("hidden_act", "gelu", "silu")),
        ({"use_sliding_window": True}, ("use_sliding_window",)),
        ({"layer_types": ["full_attention", "sliding_attention"]}, ("layer_types", "sliding_attention")),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, ("rope_type", "yarn", "default")),
        ({"quantization_config": {"bits": 4}}, ("quantization_config",)),
        ({"num_hidden_layers": "x"}, ("n_layer", "whole number")),
        ({"num_hidden_layers": 2}, ("layers.2", "no place")),
        ({"num_hidden_layers": 4}, ("layers.3", "missing")),
        ({"hidden_size": 64}, ("embed_tokens", "64")),
        ({"vocab_size": 300}, ("300 embeddings", "504 tokens")),
        ({"hidden_size": None}, ("hidden_size",)),
    ],
)
def test_what_is_not_qwen3_is_named(model_folder, changes, words, fails):
    assert prepare.main(FLAGS) == 0
    path = model_folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}), encoding="utf-8")
    error = fails(train.main, FLAGS)
    assert all(word in error for word in words), error


def test_other_mistakes_are_one_line(book, model_folder, fails, qwen3):
    assert "brings its own tokenizer" in fails(train_tokenizer.main, FLAGS)
    assert "n_layer: 7" in fails(train.main, [*FLAGS, "--n_layer=7"])
    assert "init_from" in fails(train.main, [*FLAGS, "--init_from=nothing"])
    assert "prepare.py" in fails(train.main, FLAGS)  # which has not run
    assert prepare.main(FLAGS) == 0
    assert "eos_token" in fails(train.main, [*FLAGS, "--eos_token=<no>"])
    damaged = next(model_folder.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert damaged.name in fails(train.main, FLAGS)
    damaged.unlink()
    assert "safetensors" in fails(train.main, FLAGS)
    shutil.rmtree(model_folder)
    shutil.copytree(qwen3, model_folder)
    index = model_folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"model.norm.weight": "../../secret.safetensors"}}', encoding="utf-8")
    assert "secret" in fails(train.main, FLAGS)
    (model_folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "tokenizer.json" in fails(train.main, FLAGS)
    assert not (book / "out").exists() or not list((book / "out").glob("*/*.pt"))
