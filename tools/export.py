"""Take a trained GPT to other tools.

    python -m tools.export                          the most recent run, for Hugging Face transformers
    python -m tools.export tiny --format=gguf       for llama.cpp, Ollama, LM Studio
    python -m tools.export tiny --format=gguf --type=q8_0
    python -m tools.export tiny --format=html       one page that writes in a browser, without a network

Reads   out/<run>/best.pt (or ckpt.pt, with --last) and loss_log.json
Writes  out/<run>/hf/, out/<run>/model.gguf or out/<run>/model.html, or what --out names
"""

import contextlib
import json
import shlex
import sys
import time
from pathlib import Path

import torch
from tokenizers import processors

import plot_loss
from lib.errors import ArgumentParser, UserError, reports_errors
from lib.generation import Sampling
from lib.qwen3 import to_qwen3
from lib.run.checkpoint import one_line_if_damaged
from lib.run.runs import LOG, LOG_HINT, Run, add_run_argument, run_name
from lib.storage import atomic_write, lock_folder, write_json, write_text
from sample import load_model
from tools.page import write_page
from train_tokenizer import SPLITS

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FORMATS = {"hf": (*TYPES,), "gguf": (*TYPES, "q8_0"), "html": ("q8_0", "f16")}  # The first type is the default.
# The names that llama.cpp has for pre-tokenizers, by their regular expressions.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {SPLITS: "deepseek-v3", (QWEN2_SPLIT,): "qwen2"}


# --- Hugging Face


def write_hf(folder, text_model, checkpoint, kind, run_dir):
    """A folder that AutoModelForCausalLM and AutoTokenizer open, without code of its own.

    config.json is written last: until then the folder counts as empty.
    """
    import safetensors.torch

    (folder / "config.json").unlink(missing_ok=True)
    model, tokenizer, c = text_model.model, text_model.tokenizer, text_model.model.config
    pad = tokenizer.token_to_id("<pad>")
    ids = {"bos_token_id": text_model.bos, "eos_token_id": text_model.eos}
    ids["pad_token_id"] = text_model.eos if pad is None else pad
    tokens = {key.removesuffix("_id"): tokenizer.id_to_token(i) for key, i in ids.items() if i is not None}
    tensors = {name: tensor.to(TYPES[kind]).contiguous() for name, tensor in to_qwen3(model).items()}
    with atomic_write(folder / "model.safetensors") as file:
        file.write(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    write_text(folder / "tokenizer.json", tokenizer_with_bos(text_model, checkpoint["tokenizer"]))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],  # Qwen3 refuses what transformers 4 would add.
        "padding_side": "left",  # A text is continued at its right end.
        "model_max_length": c.block_size,
        "clean_up_tokenization_spaces": False,
        **tokens,
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config, indent=2)
    sampling = {name: getattr(Sampling, name) for name in ("temperature", "top_k", "top_p")}
    # As many as there are means all: without top_k transformers takes 50, and some versions of vLLM refuse 0.
    sampling["top_k"] = sampling["top_k"] or model.embedding.num_embeddings
    write_json(folder / "generation_config.json", ids | {"do_sample": True} | sampling, indent=2)
    write_card(folder, text_model, checkpoint, run_dir)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": model.embedding.num_embeddings,
        "hidden_size": c.n_embd,
        "intermediate_size": c.ffn_size,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "head_dim": c.head_size,
        "max_position_embeddings": c.block_size,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,  # read by transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},  # by transformers 5
        "tie_word_embeddings": c.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,  # Without it transformers 4.51 warns of a window.
        "torch_dtype": str(TYPES[kind]).removeprefix("torch."),
        **ids,
    }
    write_json(folder / "config.json", config, indent=2)


def tokenizer_with_bos(text_model, text) -> str:
    """tokenizer.json as other tools need it: it puts <bos> in front by itself, as TextModel.encode does."""
    tokenizer = text_model.tokenizer
    if text_model.bos is None or tokenizer.post_processor:
        return text
    bos = tokenizer.id_to_token(text_model.bos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, text_model.bos)]
    )
    return tokenizer.to_str(pretty=True)


def write_card(folder, text_model, checkpoint, run_dir):
    """README.md, the model card of Hugging Face, with the run's figures and its curve."""
    c = text_model.model.config
    embedding, rest = text_model.model.parameter_counts()
    measured = curve = ""
    if (run_dir / LOG).exists():
        run = Run(str(run_dir))
        measured = measured_rows(run, checkpoint["step"])
        curve = "\n![training and validation loss](loss.png)\n"
        with atomic_write(folder / "loss.png") as file:
            plot_loss.draw([run], "step").savefig(file, format="png")
    origin = f"begun with `{Path(c.init_from).name}`, and trained on" if c.init_from else "trained from nothing on"
    text = f"""---
library_name: transformers
pipeline_tag: text-generation
---

# `{run_name(run_dir)}`

A GPT of {embedding + rest:,} parameters, {origin} the corpus `{c.dataset}`.

| | |
|---|---|
| parameters | {embedding:,} embedding, {rest:,} non-embedding |
| shape | {c.n_layer} layers of width {c.n_embd}, {c.n_head} heads ({c.n_kv_head} key/value) of size {c.head_size} |
| context | {c.block_size:,} tokens |
| vocabulary | {text_model.tokenizer.get_vocab_size():,} tokens, byte-level BPE |
| training | {checkpoint["step"]:,} steps, {checkpoint["tokens"]:,} tokens, learning rate {c.learning_rate:g} |
{measured}{curve}
```python
from transformers import pipeline

generate = pipeline("text-generation", model=".")  # this folder
print(generate("你好", max_new_tokens=50)[0]["generated_text"])
```

For people who have no Python, `python -m tools.export {shlex.quote(run_name(run_dir))} --format=html` of the scripts
that trained it writes a page that runs it in a browser.

It continues text in the style of its corpus. It is no assistant, and what it says is not to be relied on. What it was
not trained on it does not know; what stands in its corpus it may repeat word for word.
"""
    write_text(folder / "README.md", text)


def measured_rows(run, step) -> str:
    """What the log of the run says of the step whose weights are exported; nothing if it was not evaluated."""
    figures = next((r for r in run.records if r["step"] == step and "val_loss" in r), None)
    if not figures:
        return ""
    with one_line_if_damaged(run.folder / LOG, LOG_HINT):
        data = run.header["data"]["train"]
        return f"""\
| training text | {data["tokens"]:,} tokens, {data["documents"]:,} documents, {data["characters"]:,} characters |
| validation loss | {figures["val_loss"]:.4f} nats per token, PPL {figures["val_ppl"]:.2f} |
| whatever the tokenizer | {figures["val_bpc"]:.4f} bits per character, {figures["val_bpb"]:.4f} per byte |
| for comparison | {run.unigram_entropy:.4f} nats: knowing only how frequent each token is |
| trained on | {run.header["hardware"]["name"]}, {figures["seconds"] / 60:,.1f} minutes |
"""


# --- llama.cpp


def write_gguf(path, text_model, kind, name):
    """One file with weights and tokenizer, for llama.cpp (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""
    import gguf

    c, settings = text_model.model.config, json.loads(text_model.tokenizer.to_str())
    pre_tokenizer = settings["pre_tokenizer"] or {}
    splits = [s["pattern"].get("Regex") for s in pre_tokenizer.get("pretokenizers", []) if s["type"] == "Split"]
    if tuple(splits) not in PRE_TOKENIZERS:
        raise UserError("llama.cpp does not know the pre-tokenizer of this model; use --format=hf")
    with atomic_write(path) as file:
        writer = gguf.GGUFWriter(file.name, "qwen3")
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_context_length(c.block_size)
        writer.add_embedding_length(c.n_embd)
        writer.add_block_count(c.n_layer)
        writer.add_feed_forward_length(c.ffn_size)
        writer.add_head_count(c.n_head)
        writer.add_head_count_kv(c.n_kv_head)
        writer.add_key_length(c.head_size)
        writer.add_value_length(c.head_size)
        writer.add_rope_freq_base(c.rope_theta)
        writer.add_layer_norm_rms_eps(c.norm_eps)
        writer.add_tokenizer_model("gpt2")  # byte-level BPE
        writer.add_tokenizer_pre(PRE_TOKENIZERS[tuple(splits)])
        tokens, types = gguf_tokens(text_model, gguf.TokenType)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in settings["model"]["merges"]])
        writer.add_add_bos_token(text_model.bos is not None)
        if text_model.bos is not None:
            writer.add_bos_token_id(text_model.bos)
        writer.add_eos_token_id(text_model.eos)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, c.n_layer)
        for name, tensor in to_qwen3(text_model.model).items():
            data, wanted = quantize(tensor, kind)
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def quantize(tensor, kind):
    """(the bytes of a weight, their type in GGUF). Vectors stay float32, as those that llama.cpp converts itself."""
    import gguf

    kind = kind if tensor.dim() == 2 else "f32"
    if kind == "q8_0" and tensor.size(1) % 32:  # It quantizes 32 neighbours together.
        kind = "f16"
    kind = gguf.GGMLQuantizationType[kind.upper()]
    return gguf.quants.quantize(tensor.numpy(), kind), kind


def gguf_tokens(text_model, types):
    """(the name of each token, its type), one of each for every row of the embedding."""
    tokenizer, added = text_model.tokenizer, text_model.tokenizer.get_added_tokens_decoder()
    names = [tokenizer.id_to_token(i) for i in range(text_model.model.embedding.num_embeddings)]
    kinds = [types.UNUSED if name is None else types.NORMAL for name in names]  # Some rows are spare.
    for i, token in added.items():
        kinds[i] = types.CONTROL if token.special else types.USER_DEFINED
    return [f"[PAD{i}]" if name is None else name for i, name in enumerate(names)], kinds


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    add_run_argument(parser)
    parser.add_argument("--format", choices=FORMATS, help="hf: a folder; gguf, html: a file [hf, or as --out ends]")
    parser.add_argument("--type", choices=FORMATS["gguf"], help="of the weights [f32; html: q8_0]")
    parser.add_argument("--last", action="store_true", help="the latest weights, not those of the best validation loss")
    parser.add_argument("--out", type=Path, metavar="PATH", help="the folder (hf) or file (gguf, html) to write")
    parser.add_argument("--title", help="of the page (html) [that of the text, or the name of the run]")
    args = parser.parse_args(argv)
    ending = args.out.suffix.lower()[1:] if args.out else ""
    args.format = args.format or (ending if ending in FORMATS else "hf")
    args.type = args.type or FORMATS[args.format][0]
    start = time.perf_counter()
    text_model, source, checkpoint = load_model(args.run, args.last, "cpu")
    run_dir = source.parent
    out = args.out or run_dir / ("hf" if args.format == "hf" else f"model.{args.format}")
    if args.type not in FORMATS[args.format]:
        raise UserError(f"--format={args.format} has no --type={args.type}; it takes {', '.join(FORMATS[args.format])}")
    if out.is_file() if args.format == "hf" else out.is_dir():
        raise UserError(f"--out={out}: {args.format} is written to a {'folder' if args.format == 'hf' else 'file'}")
    # train.py may be writing into the folder of the run.
    is_run = out.parent == run_dir and (run_dir / ".lock").exists()
    with lock_folder(run_dir) if is_run else contextlib.nullcontext():
        if args.format == "hf":
            write_hf(out, text_model, checkpoint, args.type, run_dir)
        elif args.format == "gguf":
            write_gguf(out, text_model, args.type, run_name(run_dir))
        else:
            named = text_model.model.named_parameters()
            tensors = {name: quantize(weight.detach(), args.type) for name, weight in named}
            write_page(out, text_model, tensors, checkpoint, run_dir, args.title)
    files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else [out]
    size = sum(path.stat().st_size for path in files)
    how = "; open it in a browser" if args.format == "html" else ""
    print(f"{source}: step {checkpoint['step']:,}")
    print(f"saved {out} ({size / 1e6:.1f} MB) in {time.perf_counter() - start:.1f} s{how}")


if __name__ == "__main__":
    sys.exit(main())
