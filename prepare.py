"""Turn a corpus into the token ids that train.py reads.

    python prepare.py config/small.py [--shard=K/N]

Reads   data/<dataset>/corpus.* (or --corpus), data/<dataset>/bpe<vocab_size>/tokenizer.json (or init_from's)
Writes  data/<dataset>/bpe<vocab_size>/train.bin, val.bin (little-endian ids, nothing else) and meta.json

With --shard=3/16 it does the third of sixteen equal parts of the corpus, and writes train_0002.bin and so on:
sixteen jobs, on as many machines as there are, prepare a corpus together. train.py reads all shards as one.
"""

import lib.machine.startup  # noqa: F401  It must be first; it says why.

# isort: split
import contextlib
import hashlib
import shlex
import sys
import time

import numpy as np
from tqdm import tqdm

from config import TRAINING_KEYS, load_config, say_unused
from lib.errors import ArgumentParser, UserError, reports_errors
from lib.machine.terminal import first_few
from lib.storage import atomic_write, flush_to_disk, lock_folder, sha256, write_json, write_text
from lib.text.corpus import Corpus
from lib.tokens.prepared import (
    describe_text,
    entropy,
    missing_shards,
    parse_shard,
    remove_other_divisions,
    shard_suffix,
)
from lib.tokens.tokenizer import BOS, EOS, parse_tokenizer, read_tokenizer, special_ids

BATCH = 1 << 20  # characters encoded at a time, on all cores


class Split:
    """One .bin file as it grows, and what is counted on the way."""

    def __init__(self, file, dtype, vocab_size):
        self.file, self.dtype, self.vocab_size = file, dtype, vocab_size
        self.hash = hashlib.sha256()
        self.counts = np.zeros(vocab_size, dtype=np.int64)
        self.documents = self.characters = self.bytes = 0

    def write(self, ids):
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and ids.max() >= self.vocab_size:  # A cast to 16 bits would wrap it without an error.
            raise UserError(f"token id {ids.max()} is outside the vocabulary of {self.vocab_size}")
        self.counts += np.bincount(ids, minlength=self.vocab_size)
        data = ids.astype(np.dtype(self.dtype).newbyteorder("<")).tobytes()
        self.hash.update(data)
        self.file.write(data)

    def summary(self):
        return {
            "tokens": int(self.counts.sum()),
            "documents": self.documents,
            "characters": self.characters,
            "bytes": self.bytes,
            "sha256": self.hash.hexdigest(),
        }


def encode(corpus, tokenizer, splits, bos=BOS, eos=EOS):
    """Write every document as <bos> … <eos> into its split; a model may know no <bos>."""
    document_in = None  # the split of the document that is not closed yet
    total = corpus.characters + (corpus.val.characters if corpus.val else 0)
    progress = tqdm(total=total, unit="char", unit_scale=True, desc="encoding", disable=None)
    for batch in batches(corpus.split()):
        encoded = tokenizer.encode_batch_fast([text for _, text, _ in batch], add_special_tokens=False)
        ids = {name: [] for name in splits}
        for (name, text, is_new), encoding in zip(batch, encoded, strict=True):
            if is_new:
                if document_in:
                    ids[document_in].append(eos)
                ids[name].extend([] if bos is None else [bos])
                document_in = name
                splits[name].documents += 1
            ids[name].extend(encoding.ids)
            splits[name].characters += len(text)
            splits[name].bytes += len(text.encode())
            progress.update(len(text))
        for name, split in splits.items():
            split.write(ids[name])
    splits[document_in].write([eos])
    progress.close()


def batches(pieces):
    """Group pieces into lists of about BATCH characters."""
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[1])
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def report(meta):
    """Print what was made, with the loss of the simplest model to compare with."""
    for name in ("train", "val"):
        part = meta[name]
        print(
            f"{name:5}  {part['tokens']:,} tokens in {part['documents']:,} documents,"
            f" {part['characters'] / max(part['tokens'], 1):.3f} characters a token"
        )
    print(
        f"a model that knows only how frequent each token is has a loss of {meta['unigram_entropy']:.3f} nats"
        f" (one that knows nothing, ln {meta['vocab_size']:,} = {np.log(meta['vocab_size']):.3f})"
    )


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--shard", metavar="K/N", default="1/1", help="prepare the K-th of N parts of the corpus only")
    config, args = load_config(argv, parser)
    say_unused(args, ["min_frequency", *TRAINING_KEYS])
    try:
        k, n = parse_shard(args.shard)
    except ValueError as error:
        parser.error(f"--shard: {error}")
    start = time.time()
    if config.init_from:
        from lib import qwen3  # It imports torch, which takes a second that few runs need.

        config = qwen3.with_shape_of_init(config, args.given)
    folder, suffix = config.tokens_dir, shard_suffix(k, n)
    tokenizer_file = folder / "tokenizer.json"
    tokenizer_json = qwen3.read_tokenizer(config.init_from) if config.init_from else read_tokenizer(folder)
    tokenizer = parse_tokenizer(tokenizer_json, tokenizer_file)
    bos, eos = special_ids(tokenizer, config, tokenizer_file)
    vocab_size = tokenizer.get_vocab_size()
    dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
    corpus = Corpus(config, (k, n))
    corpus.describe()

    with lock_folder(folder, f".lock{suffix}"), contextlib.ExitStack() as publishing:
        with atomic_write(folder / f"train{suffix}.bin") as train, atomic_write(folder / f"val{suffix}.bin") as val:
            splits = {"train": Split(train, dtype, vocab_size), "val": Split(val, dtype, vocab_size)}
            encode(corpus, tokenizer, splits, bos, eos)
            if not all(split.documents for split in splits.values()):
                raise UserError(
                    f"{corpus.characters:,} characters are too few for training and validation;"
                    f" use {'fewer shards' if suffix else 'more text'}, or a larger val_fraction"
                )
            for file in (train, val):
                flush_to_disk(file)  # A full disk must show while the old files are still there.
            # From here on one shard at a time, because each removes what does not belong to its division.
            publishing.enter_context(lock_folder(folder, ".lock_all", wait=True))
            if config.init_from:  # Its tokenizer stands beside its tokens.
                write_text(tokenizer_file, tokenizer_json)
            # Until the new meta file is there, the shard, or the folder, counts as not prepared.
            (folder / f"meta{suffix}.json").unlink(missing_ok=True)
        meta = {
            "dtype": dtype,
            "vocab_size": vocab_size,
            "tokenizer_sha256": sha256(tokenizer_json),
            "unigram_entropy": entropy(splits["train"].counts),
            **{name: split.summary() for name, split in splits.items()},
            **describe_text(corpus),
        }
        if suffix:
            counts = " ".join(map(str, splits["train"].counts))  # for the unigram entropy of all shards together
            meta |= {"shard": args.shard, "corpus_bytes": corpus.file_bytes, "counts": counts}
        write_json(folder / f"meta{suffix}.json", meta, indent=1)
        remove_other_divisions(folder, n)
        missing = missing_shards(folder, n)

    report(meta)
    print(f"saved {f'shard {args.shard} in ' if suffix else ''}{folder} in {time.time() - start:.0f} s")
    words = shlex.join(word for word in args.argv if word not in ("--shard", args.shard, f"--shard={args.shard}"))
    if missing:
        print(f"missing {first_few(missing)}")
        print(f"next: python prepare.py {words} --shard={missing[0]}")
    else:
        print(f"next: python train.py {words}")


if __name__ == "__main__":
    sys.exit(main())
