"""Take a trained GPT to other tools.

    python export.py                          the most recent run, for Hugging Face transformers
    python export.py tiny --format=gguf       for llama.cpp, Ollama, LM Studio
    python export.py tiny --format=gguf --type=q8_0

Reads   out/<run>/best.pt (or ckpt.pt, with --last) and loss_log.json
Writes  out/<run>/hf/ or out/<run>/model.gguf, or what --out names
"""

from errors import UserError, reports_errors

import contextlib
import inspect
import json
import sys
import time
from pathlib import Path

import safetensors.torch
import torch
from tokenizers import processors

from config import ArgumentParser
from files import BEST, LATEST, LOG, atomic_write, find_run, load_checkpoint, only_writer, read_json, write_json
from loss_log import Run
from model import GPT, from_checkpoint
from pretrained import layout
from train_tokenizer import SPLITS

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
# The names that llama.cpp has for pre-tokenizers, by their regular expressions.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {SPLITS: "deepseek-v3", (QWEN2_SPLIT,): "qwen2"}


def qwen3_tensors(model) -> dict:
    """The weights under the names that Qwen3ForCausalLM has for them, (rows, columns), float32."""
    state, tensors = model.state_dict(), {}
    for name, parts in layout(model.config, model.embedding.num_embeddings):
        tensors |= zip(parts, state[name].split(list(parts.values())), strict=True)
    return tensors


def write_hf(folder, model, checkpoint, kind, run_dir):
    """A folder that AutoModelForCausalLM and AutoTokenizer open, without code of its own.

    It counts as empty from the moment it is begun until config.json, the last file, is there.
    """
    (folder / "config.json").unlink(missing_ok=True)
    c, eos = model.config, model.eos
    pad = model.tokenizer.token_to_id("<pad>")
    ids = {"bos_token_id": model.bos, "eos_token_id": eos, "pad_token_id": eos if pad is None else pad}
    tokens = {key.removesuffix("_id"): model.tokenizer.id_to_token(i) for key, i in ids.items() if i is not None}
    tensors = {name: tensor.to(TYPES[kind]).contiguous() for name, tensor in qwen3_tensors(model).items()}
    with atomic_write(folder / "model.safetensors") as file:
        file.write(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    with atomic_write(folder / "tokenizer.json", "w") as file:
        file.write(tokenizer_with_bos(model, checkpoint["tokenizer"]))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": c.block_size,
        "clean_up_tokenization_spaces": False,
        **tokens,
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config, indent=2)
    default = inspect.signature(GPT.stream).parameters  # those of sample.py too
    sampling = {name: default[name].default for name in ("temperature", "top_k", "top_p")}
    write_json(folder / "generation_config.json", ids | {"do_sample": True} | sampling, indent=2)
    write_card(folder, model, checkpoint, run_dir)
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
        "torch_dtype": str(TYPES[kind]).removeprefix("torch."),
        **ids,
    }
    write_json(folder / "config.json", config, indent=2)


def tokenizer_with_bos(model, text) -> str:
    """tokenizer.json as other tools need it: it puts <bos> in front by itself, as GPT.encode does."""
    if model.bos is None or json.loads(text)["post_processor"]:
        return text
    bos = model.tokenizer.id_to_token(model.bos)
    model.tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, model.bos)]
    )
    return model.tokenizer.to_str(pretty=True)


def write_card(folder, model, checkpoint, run_dir):
    """README.md, the model card of Hugging Face, with the run's figures and its curve."""
    c = model.config
    embedding, rest = model.parameter_counts()
    measured = curve = ""
    if (run_dir / LOG).exists():
        import plot_loss

        measured = measured_rows(run_dir / LOG, checkpoint["step"])
        curve = "\n![training and validation loss](loss.png)\n"
        with atomic_write(folder / "loss.png") as file:
            plot_loss.draw([Run(str(run_dir))], "step").savefig(file, format="png")
    origin = f"begun with `{Path(c.init_from).name}`, and trained on" if c.init_from else "trained from nothing on"
    step_tokens = c.batch_size * c.block_size
    text = f"""---
library_name: transformers
pipeline_tag: text-generation
---

# {c.run}

A GPT of {embedding + rest:,} parameters, {origin} the corpus `{c.dataset}`.

| | |
|---|---|
| parameters | {embedding:,} embedding, {rest:,} non-embedding |
| shape | {c.n_layer} layers of width {c.n_embd}, {c.n_head} heads ({c.n_kv_head} key/value) of size {c.head_size} |
| context | {c.block_size:,} tokens |
| vocabulary | {model.tokenizer.get_vocab_size():,} tokens, byte-level BPE |
| training | {checkpoint["step"]:,} steps of {step_tokens:,} tokens, learning rate {c.learning_rate:g} |
{measured}{curve}
```python
from transformers import pipeline

generate = pipeline("text-generation", model=".")  # this folder
print(generate("你好", max_new_tokens=50)[0]["generated_text"])
```

It continues text in the style of its corpus. It is no assistant, and what it says is not to be relied on. What it was
not trained on it does not know; what stands in its corpus it may repeat word for word.
"""
    with atomic_write(folder / "README.md", "w") as file:
        file.write(text)


def measured_rows(path, step) -> str:
    """What the log of the run says of the step whose weights are exported."""
    remedy = "train the run again, or --resume it, to write it anew"
    log = read_json(path, remedy)
    try:
        figures = next(r for r in log["records"] if r["step"] == step and "val_loss" in r)
        data = log["data"]["train"] if "data" in log else {}  # not in logs of older versions
        text = "| training text | {tokens:,} tokens, {documents:,} documents, {characters:,} characters |\n"
        return f"""\
{text.format(**data) if data else ""}\
| validation loss | {figures["val_loss"]:.4f} nats per token, PPL {figures["val_ppl"]:.2f} |
| whatever the tokenizer | {figures["val_bpc"]:.4f} bits per character, {figures["val_bpb"]:.4f} per byte |
| for comparison | {log["unigram_entropy"]:.4f} nats: knowing only how frequent each token is |
| trained on | {log["hardware"]["name"]}, {figures["seconds"] / 60:,.1f} minutes |
"""
    except StopIteration:  # stopped between two evaluations
        return ""
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged; {remedy}") from None


def write_gguf(path, model, checkpoint, kind):
    """One file with weights and tokenizer, for llama.cpp (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

    Vectors stay float32, as do those that llama.cpp converts itself.
    """
    import gguf

    c, tokenizer = model.config, model.tokenizer
    settings = json.loads(checkpoint["tokenizer"])
    pre_tokenizer = settings["pre_tokenizer"] or {}
    splits = [s["pattern"].get("Regex") for s in pre_tokenizer.get("pretokenizers", []) if s["type"] == "Split"]
    if tuple(splits) not in PRE_TOKENIZERS:
        raise UserError("llama.cpp does not know the pre-tokenizer of this model; use --format=hf")
    added = tokenizer.get_added_tokens_decoder()
    tokens, types = [], []
    for i in range(model.embedding.num_embeddings):
        token = tokenizer.id_to_token(i)
        kind_of_token = gguf.TokenType.NORMAL
        if token is None:  # a spare row
            token, kind_of_token = f"[PAD{i}]", gguf.TokenType.UNUSED
        elif i in added:
            kind_of_token = gguf.TokenType.CONTROL if added[i].special else gguf.TokenType.USER_DEFINED
        tokens.append(token)
        types.append(kind_of_token)
    merges = [m if isinstance(m, str) else " ".join(m) for m in settings["model"]["merges"]]

    with atomic_write(path) as file:
        writer = gguf.GGUFWriter(file.name, "qwen3")
        writer.add_name(c.run)
        writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[kind]])
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
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges(merges)
        writer.add_add_bos_token(model.bos is not None)
        if model.bos is not None:
            writer.add_bos_token_id(model.bos)
        writer.add_eos_token_id(model.eos)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, c.n_layer)
        for name, tensor in qwen3_tensors(model).items():
            wanted = kind if tensor.dim() == 2 else "f32"
            if wanted == "q8_0" and tensor.size(1) % 32:  # it quantizes 32 neighbours together
                wanted = "f16"
            wanted = gguf.GGMLQuantizationType[wanted.upper()]
            data = gguf.quants.quantize(tensor.numpy(), wanted)
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="", help="a name under out/, a folder or a checkpoint")
    parser.add_argument("--format", choices=("hf", "gguf"), default="hf", help="hf: a folder; gguf: a file [hf]")
    parser.add_argument("--type", choices=(*FILE_TYPES,), default="f32", help="of the weights [f32]")
    parser.add_argument("--last", action="store_true", help="the latest weights, not those of the best validation loss")
    parser.add_argument("--out", type=Path, metavar="PATH", help="the folder (hf) or file (gguf) to write")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    source = find_run(args.run, *((LATEST,) if args.last else (BEST, LATEST)))
    checkpoint = load_checkpoint(source)
    model = from_checkpoint(checkpoint, source)
    out = args.out or source.parent / ("hf" if args.format == "hf" else "model.gguf")
    if args.format == "hf" and args.type == "q8_0":
        raise UserError("--type=q8_0 is for --format=gguf; hf takes f32, f16 or bf16")
    if out.is_dir() if args.format == "gguf" else out.is_file():
        raise UserError(f"--out={out}: {args.format} is written to a {'file' if args.format == 'gguf' else 'folder'}")
    # Where train.py may be writing too. Not elsewhere: what looks half-written there may be somebody's.
    is_run = out.parent == source.parent and (out.parent / ".lock").exists()
    with only_writer(out.parent) if is_run else contextlib.nullcontext():
        if args.format == "hf":
            write_hf(out, model, checkpoint, args.type, source.parent)
        else:
            write_gguf(out, model, checkpoint, args.type)
    files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else [out]
    size = sum(path.stat().st_size for path in files)
    print(f"{source}: step {checkpoint['step']:,}")
    print(f"saved {out} ({size / 1e6:.1f} MB) in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
