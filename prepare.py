"""Turn a corpus into the token ids that train.py reads.

    python prepare.py config/small.py [--shard=K/N]

Reads   data/<dataset>/corpus.* (or --corpus), data/<dataset>/bpe<vocab_size>/tokenizer.json (or init_from's)
Writes  data/<dataset>/bpe<vocab_size>/train.bin, val.bin (little-endian ids, nothing else) and meta.json

With --shard=3/16 it does a sixteenth of the files of the corpus, the third, and writes train_0002.bin and so on:
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
from lib.storage import atomic_write, flush_to_disk, lock_folder, sha256
from lib.text.corpus import Corpus
from lib.tokens.prepared import describe_text, entropy, parse_shard, publish, shard_suffix
from lib.tokens.tokenizer import BOS, EOS, parse_tokenizer, read_tokenizer, special_ids

BATCH = 1 << 20  # characters encoded at a time, on all cores


class TokenFile:
    """One .bin file as it grows, and what is counted on the way."""

    def __init__(self, file, vocab_size):
        self.file, self.vocab_size = file, vocab_size
        self.dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        self.hash = hashlib.sha256()
        self.counts = np.zeros(vocab_size, dtype=np.int64)
        self.documents = self.characters = self.bytes = 0

    def write(self, ids):
        ids = np.asarray(ids, dtype=np.int64)
        if ids.max(initial=0) >= self.vocab_size:  # A cast to 16 bits would wrap it without an error.
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


def encode(corpus, tokenizer, files, bos=BOS, eos=EOS):
    """Write every document as <bos> … <eos> into files["train"] or files["val"]; a model may know no <bos>."""
    document_in = None  # the split of the document that is not closed yet
    total = corpus.characters + (corpus.val.characters if corpus.val else 0)
    progress = tqdm(total=total, unit="char", unit_scale=True, desc="encoding", disable=None)
    for batch in batches(corpus.train_and_val()):
        encoded = tokenizer.encode_batch_fast([text for _, text, _ in batch], add_special_tokens=False)
        ids = {split: [] for split in files}
        for (split, text, is_new), encoding in zip(batch, encoded, strict=True):
            if is_new:
                if document_in:
                    ids[document_in].append(eos)
                ids[split].extend([] if bos is None else [bos])
                document_in = split
                files[split].documents += 1
            ids[split].extend(encoding.ids)
            files[split].characters += len(text)
            files[split].bytes += len(text.encode())
            progress.update(len(text))
        for split, file in files.items():
            file.write(ids[split])
    files[document_in].write([eos])
    progress.close()


def batches(pieces):
    """Group pieces into lists of about BATCH characters; the last one may be empty."""
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[1])
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def describe(corpus, files, tokenizer_json, shard) -> dict:
    """What meta.json says of the tokens in two files. Raises UserError if one is empty."""
    if not all(file.documents for file in files.values()):
        raise UserError(
            f"{corpus.characters:,} characters are too few for training and validation;"
            " use more text, fewer shards, or a larger val_fraction"
        )
    train = files["train"]
    meta = {
        "dtype": train.dtype,
        "vocab_size": train.vocab_size,
        "tokenizer_sha256": sha256(tokenizer_json),
        "unigram_entropy": entropy(train.counts),
        **{split: file.summary() for split, file in files.items()},
        **describe_text(corpus),
    }
    k, n = shard
    if n > 1:
        meta |= {"shard": f"{k}/{n}", "corpus_bytes": sum(corpus.sizes.values()), "corpus_files": len(corpus.sizes)}
        meta["counts"] = " ".join(map(str, train.counts))  # for the unigram entropy of all shards together
    return meta


def report(meta):
    """Print what was made, with the loss of the simplest model to compare with."""
    for name in ("train", "val"):
        part = meta[name]
        print(
            f"{name:5}  {part['tokens']:,} tokens in {part['documents']:,} documents,"
            f" {part['characters'] / part['tokens']:.3f} characters a token"
        )
    print(
        f"a model that knows only how frequent each token is has a loss of {meta['unigram_entropy']:.3f} nats"
        f" (one that knows nothing, ln {meta['vocab_size']:,} = {np.log(meta['vocab_size']):.3f})"
    )


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    shards = {"metavar": "K/N", "help": "prepare the K-th of N parts of the corpus only"}
    parser.add_argument("--shard", type=parse_shard, default=(1, 1), **shards)
    config, args = load_config(argv, parser)
    say_unused(args, ["min_frequency", *TRAINING_KEYS])
    start = time.time()
    brought = ""  # a tokenizer that comes with a model, and is put beside its tokens
    if config.init_from:
        from lib import qwen3  # It imports torch, which takes a second that few runs need.

        config = qwen3.with_shape_of_init(config, args.given)
        brought = qwen3.read_tokenizer(config.init_from)
    folder, suffix = config.tokens_dir, shard_suffix(*args.shard)
    tokenizer_json = brought or read_tokenizer(folder)
    tokenizer = parse_tokenizer(tokenizer_json, folder / "tokenizer.json")
    bos, eos = special_ids(tokenizer, config, folder / "tokenizer.json")
    corpus = Corpus(config, args.shard)
    corpus.describe()

    with lock_folder(folder, f".lock{suffix}"), contextlib.ExitStack() as bins:
        files = {}
        for split in ("train", "val"):
            file = bins.enter_context(atomic_write(folder / f"{split}{suffix}.bin"))
            files[split] = TokenFile(file, tokenizer.get_vocab_size())
        encode(corpus, tokenizer, files, bos, eos)
        meta = describe(corpus, files, tokenizer_json, args.shard)
        for part in files.values():
            flush_to_disk(part.file)  # A full disk must show while the old files are still there.
        missing = publish(folder, args.shard, bins, meta, brought)

    report(meta)
    shard = meta.get("shard", "1/1")
    print(f"saved {f'shard {shard} in ' if suffix else ''}{folder} in {time.time() - start:.0f} s")
    words = shlex.join(word for word in args.argv if word not in ("--shard", shard, f"--shard={shard}"))
    if missing:
        print(f"missing {first_few(missing)}")
        print(f"next: python prepare.py {words} --shard={missing[0]}")
    else:
        print(f"next: python train.py {words}")


if __name__ == "__main__":
    sys.exit(main())
