"""Text in and out of a GPT: a prompt becomes token ids, token ids become text."""

import codecs
import sys

import torch

from lib.errors import UserError
from lib.tokenizer import special_ids, token_bytes


class TextDecoder:
    """Turns tokens into text as they come; a character appears when its last byte has."""

    def __init__(self, token_bytes):
        self.token_bytes = token_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.so_far = ""

    def add(self, token: int) -> str:
        """The characters that this token completes."""
        text = self.decoder.decode(self.token_bytes[token])
        self.so_far += text
        return text


class TextModel:
    """A GPT with its tokenizer, ready to continue texts.

    where: the file that the tokenizer came from, for an error message. Raises UserError.
    """

    def __init__(self, model, tokenizer, where):
        self.model, self.tokenizer = model, tokenizer
        rows, n_tokens = model.embedding.num_embeddings, tokenizer.get_vocab_size()
        spare = rows - n_tokens  # Published models have some.
        if spare < 0 or (spare and not model.config.init_from):
            raise UserError(f"{where}: damaged: the model has {rows:,} embeddings for {n_tokens:,} tokens")
        self.token_bytes = token_bytes(tokenizer) + [b""] * spare
        self.bos, self.eos = special_ids(tokenizer, model.config, where)

    def generate(self, prompt, max_new_tokens=200, ignore_eos=False, **sampling):
        """Continue a text (str in, str out), or token ids ((B, T) in, (B, T + new) out), until <eos>.

        sampling: see GPT.stream.
        """
        if not isinstance(prompt, str):
            return self.model.generate(prompt, max_new_tokens, None if ignore_eos else self.eos, **sampling)
        text = TextDecoder(self.token_bytes)
        for token in self.model.stream(self.encode(prompt), max_new_tokens, **sampling):
            if token.item() == self.eos and not ignore_eos:
                break
            text.add(token.item())
        return prompt + text.so_far

    def encode(self, prompt: str):
        """<bos>, if the tokenizer has it, and the tokens of a text, (1, T); of a long text its end."""
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise UserError("the prompt holds bytes or half characters that are not valid text") from None
        ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        if self.bos is not None:
            ids = [self.bos, *ids]
        ids = ids or [self.eos]  # A document begins where another has ended.
        room = self.model.config.block_size - 1
        if len(ids) > room:
            print(f"warning: the prompt has {len(ids):,} tokens, the model sees its last {room:,}", file=sys.stderr)
        return torch.tensor([ids[-room:]], device=self.model.embedding.weight.device)
