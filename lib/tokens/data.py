"""What prepare.py has left for train.py, all of it: the tokenizer, its tokens, and what is known of them."""

from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from lib.tokens.memmap import Tokens
from lib.tokens.prepared import check_text, read_meta
from lib.tokens.tokenizer import parse_tokenizer, read_tokenizer, token_lengths


class Data(NamedTuple):
    tokenizer_json: str
    tokenizer: Tokenizer
    meta: dict  # see read_meta
    train: Tokens
    val: Tokens
    lengths: torch.Tensor  # (2, vocab_size): the bytes and the characters of each token


def read_data(config, given, device) -> Data:
    """given: {key: where the user has set it}. Raises UserError if there are no sound tokens, or of another text."""
    tokenizer_json = read_tokenizer(config.tokens_dir)
    meta = read_meta(config.tokens_dir)
    check_text(config, given, meta)
    tokenizer = parse_tokenizer(tokenizer_json, config.tokens_dir / "tokenizer.json")
    train, val = (Tokens(config, meta, split, device) for split in ("train", "val"))
    lengths = torch.from_numpy(np.stack(token_lengths(tokenizer))).to(device)
    return Data(tokenizer_json, tokenizer, meta, train, val, lengths)
