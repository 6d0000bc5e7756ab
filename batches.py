"""Batches of tokens to train on: random blocks of train.bin, without a DataLoader."""

from errors import UserError

import bisect

import numpy as np
import torch

from tokens import open_tokens


class Tokens:
    """The token ids of a split, its shards one after another: on the GPU if they are few, else read as needed.

    Read and not mapped: a map keeps in memory what was touched, and fetches megabytes from a disk for a small block.
    """

    def __init__(self, config, meta, split, device):
        self.dtype = np.dtype(meta["dtype"]).newbyteorder("<")
        self.vocab_size, self.block_size, self.device = meta["vocab_size"], config.block_size, device
        self.sizes = [tokens * self.dtype.itemsize for tokens in meta[split]["shards"]]  # in bytes
        self.ends = np.cumsum(self.sizes).tolist()
        self.files = open_tokens(config.tokens_dir, meta, split)
        if len(self) <= config.block_size:
            raise UserError(
                f"{config.tokens_dir}: {len(self):,} tokens for {split}, a block needs {self.block_size + 1:,};"
                " use more text, a smaller block_size, or (for val.bin) a larger val_fraction"
            )
        self.resident = None
        if device.type == "cuda" and 4 * len(self) < min(torch.cuda.mem_get_info(device)[0] / 4, 1 << 30):
            parts = [self.read(np.array([i]), min(1 << 20, len(self) - i)) for i in range(0, len(self), 1 << 20)]
            self.resident = torch.from_numpy(np.concatenate(parts, axis=1)[0].astype(np.int32)).to(device)

    def __len__(self):
        return self.ends[-1] // self.dtype.itemsize

    def read(self, starts, length):
        """The `length` token ids from each of `starts`, checked."""
        size = self.dtype.itemsize
        data = b"".join([self.read_bytes(start * size, length * size) for start in starts.tolist()])
        ids = np.frombuffer(data, self.dtype).reshape(-1, length)
        if ids.max() >= self.vocab_size:
            row, column = divmod(ids.argmax(), length)
            file = self.files[bisect.bisect(self.ends, (starts[row] + column) * size)]
            raise UserError(
                f"{file.name} is damaged: token id {ids.max()} is outside the vocabulary of {self.vocab_size};"
                " run prepare.py again"
            )
        return ids

    def read_bytes(self, place, size):
        """So many bytes from a place on, which may end in another shard."""
        data = b""
        while size:
            shard = bisect.bisect(self.ends, place)
            file, left = self.files[shard], self.ends[shard] - place
            file.seek(self.sizes[shard] - left)
            more = file.read(left if left < size else size)
            if not more:
                raise UserError(f"{file.name} became shorter while in use; run prepare.py again, then --resume")
            data += more
            place += len(more)
            size -= len(more)
        return data

    def blocks(self, starts):
        """Inputs and targets (B, block_size), int64, of the blocks that begin at `starts`, a numpy array."""
        if self.resident is not None:
            starts = torch.from_numpy(starts).to(self.device, non_blocking=True)
            span = torch.arange(self.block_size + 1, device=self.device)
            ids = self.resident[starts[:, None] + span].long()
        else:
            ids = torch.from_numpy(self.read(starts, self.block_size + 1).astype(np.int64))
            if self.device.type == "cuda":
                ids = ids.pin_memory()  # lets the copy overlap with the step before
            ids = ids.to(self.device, non_blocking=True)
        return ids[:, :-1], ids[:, 1:]


def block_starts(seed, step, batch_size, n_starts):
    """Where the blocks of a step begin: a function of (seed, step) alone, so that resuming needs no state."""
    return np.random.default_rng((seed, step)).integers(0, n_starts, size=batch_size)
