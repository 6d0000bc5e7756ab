"""What can be measured of a tokenizer: how it splits which text, and what more or fewer tokens would give."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
from tokenizers import Tokenizer

from lib.text.corpus import Corpus
from lib.tokens.tokenizer import (
    count_tokens,
    encode_texts,
    is_chinese,
    parse_tokenizer,
    read_tokenizer,
    readable,
    token_bytes,
)
from tools.report.words import Said
from train_tokenizer import learn, new_tokenizer, sample_corpus

EXAMPLES = {  # of kinds of text, to see what a tokenizer was made for
    Said("modern Chinese", "现代汉语"): "今天下午我们在公园里散步，天气很好，孩子们一边跑一边笑。",
    Said("traditional Chinese", "繁体中文"): "今天下午我們在公園裡散步，天氣很好，孩子們一邊跑一邊笑。",
    Said("classical Chinese", "文言"): "春雨初晴，童子携酒登楼，望江上归帆，不觉日暮。",
    Said("English", "英文"): "We walked through the park this afternoon; the children ran ahead, laughing.",
    Said("numbers", "数字"): "2026年11月24日，气温 -3.5 °C，合计 1,234,567 元。",
    Said("Python", "Python"): "def add(a, b):\n    return a + b  # no surprises\n",
    Said("rare characters, emoji", "生僻字、表情符号"): "饕餮 龘 𠮷 🙂🚀",
}


def measure_tokenizer(config) -> SimpleNamespace:
    """Everything that is measured of a tokenizer. Tokens are bytes, but for the Chinese ones, which are texts."""
    tokenizer = parse_tokenizer(read_tokenizer(config.tokens_dir), config.tokens_dir / "tokenizer.json")
    sample, held_out = sample_corpus(Corpus(config))
    pieces = token_bytes(tokenizer)
    counts = count_tokens(encode_texts(tokenizer, held_out), len(pieces))
    n_tokens = max(1, counts.sum())  # A damaged tokenizer may give none.
    names = [readable(piece) for piece in pieces]
    partial = np.array([name.startswith("<0x") for name in names])

    def split(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    broken = sorted({c for text in held_out for c in text if is_chinese(c) and len(split(c)) > 1})
    return SimpleNamespace(
        name=f"{config.tokens_dir.parent.name}/{config.tokens_dir.name}",
        vocab_size=len(pieces),
        characters_per_token=sum(map(len, held_out)) / n_tokens,  # of the held-out text, as all below but `kinds`
        bytes_per_token=sum(len(text.encode()) for text in held_out) / n_tokens,
        n_partial=int(partial.sum()),  # tokens that are a part of a character
        partial_share=counts[partial].sum() / n_tokens,  # of the text's tokens
        chinese=sorted(filter(is_chinese, names), key=len, reverse=True),
        n_broken=len(broken),  # Chinese characters that are several tokens
        broken=[(c, [pieces[i] for i in split(c)]) for c in broken[:: max(1, len(broken) // 12)][:12]],
        # the characters per token, and the tokens, of each kind of text
        kinds=[(k, len(t) / max(1, len(split(t))), [pieces[i] for i in split(t)]) for k, t in EXAMPLES.items()],
        passage=[(i, pieces[i]) for i in split("".join(held_out)[:400])],
        sizes=[] if config.init_from else compare_sizes(config, sample, held_out),
    )


def compare_sizes(config, sample, held_out) -> list[tuple]:
    """What a quarter, half, twice and four times the vocabulary would give.

    For each: (its size, characters per token, characters in a window, parameters of its embedding, share of its tokens
    that are rare). Only the largest is learned: BPE adds one token after the other, so the first ones are those of a
    smaller one.
    """
    largest = new_tokenizer()
    learn(largest, sample, dataclasses.replace(config, vocab_size=4 * config.vocab_size))
    characters, rows = sum(map(len, held_out)), []
    sizes = (config.vocab_size * quarters // 4 for quarters in (1, 2, 4, 8, 16))
    for size in sorted({min(size, largest.get_vocab_size()) for size in sizes if size >= 300}):
        tokenizer = smaller(largest, size)
        ratio = characters / max(1, count_tokens(encode_texts(tokenizer, held_out), size).sum())
        rare = float((count_tokens(encode_texts(tokenizer, sample), size) < 20).mean())
        rows.append((size, ratio, ratio * config.block_size, size * config.n_embd, rare))
    return rows


def smaller(tokenizer, vocab_size):
    """The tokenizer with the first tokens only: the same as if no more had been learned."""
    settings = json.loads(tokenizer.to_str())
    model = settings["model"]
    ids = model["vocab"]
    model["merges"] = [pair for pair in model["merges"] if ids["".join(pair)] < vocab_size]
    model["vocab"] = {token: i for token, i in ids.items() if i < vocab_size}
    return Tokenizer.from_str(json.dumps(settings))
