"""What prepare.py has left, as train.py reads it: the tokenizer, and memory maps of the .bin files."""

import mmap

import numpy as np
import torch

from lib.errors import UserError
from lib.tokens.prepared import check_text, read_meta, shard_suffix
from lib.tokens.tokenizer import parse_tokenizer, read_tokenizer, token_lengths


class Data:
    """A tokenizer, the tokens of both splits, and what is known of them: `meta`, see `read_meta`.

    given: {key: where the user has set it}. lengths: (2, vocab_size), the bytes and the characters of each token.
    Raises UserError.
    """

    def __init__(self, config, given, device):
        self.tokenizer_json = read_tokenizer(config.tokens_dir)
        self.meta = read_meta(config.tokens_dir)
        check_text(config, given, self.meta)
        self.tokenizer = parse_tokenizer(self.tokenizer_json, config.tokens_dir / "tokenizer.json")
        self.train, self.val = (Tokens(config, self.meta, split, device) for split in ("train", "val"))
        self.lengths = torch.from_numpy(np.stack(token_lengths(self.tokenizer))).to(device)


class Tokens:
    """The token ids of a split: a memory map of each shard, of which only what is read comes from the disk.

    A block of block_size + 1 ids lies within its shard. It is known by its offset: 0 is the first block of the first
    shard, and each next token begins another, as long as a whole block follows. `n_offsets` counts them.
    """

    def __init__(self, config, meta, split, device):
        self.vocab_size, self.block_size, self.device = meta["vocab_size"], config.block_size, device
        n = len(meta[split]["shards"])
        paths = [config.tokens_dir / f"{split}{shard_suffix(k, n)}.bin" for k in range(1, n + 1)]
        self.shards = [np.memmap(path, np.dtype(meta["dtype"]).newbyteorder("<"), mode="r") for path in paths]
        if hasattr(mmap, "MADV_RANDOM"):  # Otherwise a block from a cold disk fetches megabytes around it.
            for shard in self.shards:
                shard.base.madvise(mmap.MADV_RANDOM)
        sizes = [len(shard) for shard in self.shards]
        offsets = [max(0, size - self.block_size) for size in sizes]
        self.n_tokens, self.n_offsets = sum(sizes), sum(offsets)
        self.first_token = np.cumsum([0, *sizes])  # of each shard, and the end of all
        self.first_offset = np.cumsum([0, *offsets])
        if not self.n_offsets:
            raise UserError(
                f"{config.tokens_dir}: {self.n_tokens:,} tokens for {split}, a block needs {self.block_size + 1:,};"
                " use more text, fewer shards, a smaller block_size, or (for val.bin) a larger val_fraction"
            )
        self.on_gpu = None
        if device.type == "cuda" and 4 * self.n_tokens < min(torch.cuda.mem_get_info(device)[0] / 4, 1 << 30):
            self.on_gpu = torch.from_numpy(self.head(self.n_tokens).astype(np.int32)).to(device)

    def blocks(self, offsets):
        """The block_size + 1 ids from each offset: (B, block_size + 1), int64, on the device. offsets: numpy, (B,).

        Raises UserError if the file is damaged.
        """
        shards = np.searchsorted(self.first_offset, offsets, side="right") - 1
        starts, size = offsets - self.first_offset[shards], self.block_size + 1
        if self.on_gpu is not None:
            starts = torch.from_numpy(starts + self.first_token[shards]).to(self.device, non_blocking=True)
            return self.on_gpu[starts[:, None] + torch.arange(size, device=self.device)].long()
        ids = np.stack([self.shards[k][start : start + size] for k, start in zip(shards, starts, strict=True)])
        ids = torch.from_numpy(self.check(ids).astype(np.int64))
        if self.device.type == "cuda":
            ids = ids.pin_memory()  # The copy can then go on while the GPU computes.
        return ids.to(self.device, non_blocking=True)

    def check(self, ids):
        if ids.max(initial=0) >= self.vocab_size:
            raise UserError(
                f"{self.shards[0].filename} is damaged, or a shard beside it: token id {ids.max()} is outside the"
                f" vocabulary of {self.vocab_size}; run prepare.py again"
            )
        return ids

    def windows(self, limit):
        """The offsets of blocks side by side, from the beginning on, of at most `limit` tokens (0: all)."""
        limit = min(limit or self.n_tokens, self.n_tokens)
        left, starts = max(1, limit // self.block_size), []
        for shard, first in zip(self.shards, self.first_offset, strict=False):
            n = min(left, (len(shard) - 1) // self.block_size)
            starts.append(first + self.block_size * np.arange(n))
            left -= n
        return np.concatenate(starts)

    def head(self, n):
        """The first n token ids, or all if there are fewer: a numpy array. Raises UserError if the file is damaged."""
        parts = []
        for shard in self.shards:
            parts.append(shard[:n])
            n -= len(parts[-1])
        return self.check(np.concatenate(parts))
