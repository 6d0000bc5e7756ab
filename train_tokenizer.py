"""Learn a byte-level BPE tokenizer from a corpus.

    python train_tokenizer.py config/small.py

Reads   data/<dataset>/corpus.* (or --corpus)
Writes  data/<dataset>/bpe<vocab_size>/tokenizer.json, vocab.json and merges.txt for other tools, and vocab.txt to read
"""

import lib.machine.startup  # noqa: F401  It must be first; it says why.

# isort: split
import contextlib
import json
import random
import shlex
import sys
import threading
import time

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from config import TRAINING_KEYS, load_config, say_unused
from lib.errors import ArgumentParser, UserError, reports_errors
from lib.storage import atomic_write, flush_to_disk, lock_folder
from lib.text.corpus import Corpus
from lib.tokens.prepared import say_what_is_replaced
from lib.tokens.tokenizer import (
    SPECIAL_TOKENS,
    count_tokens,
    encode_texts,
    is_chinese,
    parse_tokenizer,
    readable,
    text_or_bytes,
    token_bytes,
)

SAMPLE_BYTES = 8_000_000  # enough, see docs/EXPERIMENTS.md
HELD_OUT_CHARACTERS = 500_000

# How text is cut before merges are learned, the sequence of DeepSeek-V3: numbers in threes, runs of Chinese
# and kana, then words, punctuation and white space. Merges never cross a cut, so that no token glues
# Chinese punctuation to the next word. llama.cpp knows it as `deepseek-v3`.
SPLITS = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)

# The time to learn grows with the length of the words, and text without spaces or punctuation is a single word.
# While merges are learned, words are cut after this many bytes: 256 Chinese characters. The three corpora have 226.
LONGEST_WORD = 768


def new_tokenizer():
    """A byte-level BPE that has learned nothing yet. No normalizer: what is encoded comes back unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), behavior="isolated") for split in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sample_corpus(corpus):
    """A random sample of the training text, of about SAMPLE_BYTES, and the start of the validation text."""
    train_bytes = corpus.bytes * (1 if corpus.val else 1 - corpus.config.val_fraction)
    chance = random.Random(0)
    sample, held_out, characters = [], [], 0
    for split, text, _ in corpus.train_and_val():
        if split == "train":
            if chance.random() < SAMPLE_BYTES / train_bytes:
                sample.append(text)
        elif characters < HELD_OUT_CHARACTERS:
            held_out.append(text)
            characters += len(text)
    return sample, held_out


def learn(tokenizer, sample, config):
    """Train the tokenizer, in a thread: the library ignores Ctrl-C, and the main thread can still hear it."""
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        # This holds all 256 bytes. Bytes that the text lacks would otherwise vanish without an error when encoded.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
    )
    splits = tokenizer.pre_tokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splits, pre_tokenizers.FixedLength(LONGEST_WORD)])
    failures = []

    def work():
        try:
            tokenizer.train_from_iterator(sample, trainer, length=len(sample))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    tokenizer.pre_tokenizer = splits


def save(tokenizer, folder, counts):
    """Write the files. counts (vocab_size,): how often each token occurs in the sample, for vocab.txt."""
    text = tokenizer.to_str(pretty=True)
    model = json.loads(text)["model"]
    merges = "#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in model["merges"])
    vocab = json.dumps(model["vocab"], ensure_ascii=False)
    # As Python writes texts and bytes: so nothing in a token ends a line or a column, blanks can be seen, and no
    # spreadsheet takes it for a number or a formula.
    names = [repr(text_or_bytes(piece)) for piece in token_bytes(tokenizer)]
    names[: len(SPECIAL_TOKENS)] = SPECIAL_TOKENS
    rows = ["id\ttoken\tcount", *(f"{i}\t{names[i]}\t{n}" for i, n in enumerate(counts))]
    files = {"tokenizer.json": text, "merges.txt": merges, "vocab.json": vocab, "vocab.txt": "\n".join(rows) + "\n"}
    with contextlib.ExitStack() as stack:  # On a full disk none of them is replaced.
        for name, content in files.items():
            file = stack.enter_context(atomic_write(folder / name, "w"))
            file.write(content)
            flush_to_disk(file)


def encoded(tokenizer, texts):
    """Yield the token ids of each text in a list. Each text must come back unchanged."""
    for text, ids in zip(texts, encode_texts(tokenizer, texts), strict=True):
        if tokenizer.decode(ids) != text:
            raise UserError(f"round trip failed on {text[:40]!r}; the tokenizer was not saved")
        yield ids


def report(tokenizer, vocab_size, sample, counts, held_out):
    """Print what was learned, in words for a reader who has never seen a tokenizer. counts: of the sample's tokens."""
    learned = tokenizer.get_vocab_size()
    print(f"\nvocabulary      {learned:,} tokens: 4 special, 256 bytes, {learned - 260:,} learned merges")
    if learned < vocab_size:
        print(f"warning: only {learned:,} of the {vocab_size:,} tokens were learned: no other pair is frequent enough")
    held_out_counts = count_tokens(encoded(tokenizer, held_out), learned)
    for name, texts, n in (("held-out text", held_out, held_out_counts), ("training text", sample, counts)):
        tokens = n.sum() or 1
        characters, size = sum(map(len, texts)), sum(len(text.encode()) for text in texts)
        print(f"{name}   {characters / tokens:.3f} characters and {size / tokens:.3f} bytes a token")

    shown = [readable(piece) for piece in token_bytes(tokenizer)]
    partial = sum(text.startswith("<0x") for text in shown)
    chinese = [text for text in shown if is_chinese(text)]
    single = sum(len(text) == 1 for text in chinese)
    print(f"Chinese tokens  {len(chinese):,}: {single:,} single characters, {len(chinese) - single:,} longer")
    print(f"longest         {' '.join(sorted(chinese, key=len, reverse=True)[:16])}")
    print(f"partial         {partial:,} tokens are a part of a character (128 of them are single bytes)")

    example = "你好 world!"
    ids = tokenizer.encode(example, add_special_tokens=False).ids
    print(f"example         {example}  →  {ids}  →  {' | '.join(shown[i] for i in ids)}")
    print(f"round trip      exact on {len(sample) + len(held_out):,} texts")


@reports_errors
def main(argv=None):
    config, args = load_config(argv, ArgumentParser(description=__doc__))
    say_unused(args, TRAINING_KEYS)
    start = time.time()
    if config.init_from:
        raise UserError(f"init_from: {config.init_from} brings its own tokenizer; go on with prepare.py")
    corpus = Corpus(config)
    corpus.describe()
    say_what_is_replaced(config)
    with lock_folder(config.tokens_dir):
        sample, held_out = sample_corpus(corpus)
        size = sum(len(text.encode()) for text in sample)
        print(f"training on a sample of {size / 1e6:.1f} MB of the training split, vocab_size {config.vocab_size:,}")

        tokenizer = new_tokenizer()
        learn(tokenizer, sample, config)
        tokenizer = parse_tokenizer(tokenizer.to_str(), "the new tokenizer")
        counts = count_tokens(encoded(tokenizer, sample), tokenizer.get_vocab_size())
        report(tokenizer, config.vocab_size, sample, counts, held_out)
        save(tokenizer, config.tokens_dir, counts)
    print(f"\nsaved {config.tokens_dir / 'tokenizer.json'} in {time.time() - start:.0f} s")
    print(f"next: python prepare.py {shlex.join(args.argv)}")
    print(f"      python -m tools.report --tokenizer {shlex.join(args.argv)}")


if __name__ == "__main__":
    sys.exit(main())
