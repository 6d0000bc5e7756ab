"""What prepare.py has left for train.py, all of it."""

import numpy as np
import torch

from lib.tokens.memmap import Tokens
from lib.tokens.prepared import check_text, read_meta
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
