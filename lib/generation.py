"""Text in and out of a GPT: a prompt becomes token ids, token ids become text."""

import codecs
import sys

import torch

from lib.errors import UserError
from lib.tokens.tokenizer import special_ids, token_bytes
from lib.tokens.utf8 import token_automaton


class TextDecoder:
    """Turns the tokens of a sample into text as they come, until <eos> or the first of the stop texts.

    A character appears when its last byte has. What a stop text may begin with appears when it is clear that none does.
    """

    def __init__(self, token_bytes, eos=None, stop=()):
        self.token_bytes, self.eos, self.stop = token_bytes, eos, stop
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held = ""
        self.ended = False

    def add(self, token: int) -> str:
        """The text that this token completes."""
        if self.ended or token == self.eos:
            return self.finish()
        text = self.held + self.decoder.decode(self.token_bytes[token])
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self.stop if stop in text]
        if found:
            self.held, self.ended = "", True
            return text[: min(found)[1]]
        beginnings = (stop[:n] for stop in self.stop for n in range(1, len(stop)))
        end = len(text) - max((len(word) for word in beginnings if text.endswith(word)), default=0)
        self.held = text[end:]
        return text[:end]

    def finish(self) -> str:
        """The text that was held back, if no more tokens come."""
        text, self.held, self.ended = self.held, "", True
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
        tables = token_automaton(self.token_bytes[:n_tokens], rows)
        self.automaton = tuple(torch.from_numpy(table).to(model.embedding.weight.device) for table in tables)

    def generate(self, prompt, max_new_tokens=200, ignore_eos=False, stop=(), **sampling):
        """Continue a text (str in, str out), or token ids ((B, T) in, (B, T + new) out), until <eos>.

        stop: texts; a sample ends before the first of them that appears. They are for a text, not for token ids.
        sampling: see GPT.stream.
        """
        if isinstance(prompt, str):
            return "".join(new for [new] in self.stream(prompt, 1, max_new_tokens, ignore_eos, stop, **sampling))
        return self.model.generate(prompt, max_new_tokens, None if ignore_eos else self.eos, **sampling)

    def stream(self, prompt: str, num_samples, max_new_tokens=200, ignore_eos=False, stop=(), **sampling):
        """Yield what is new in the text of each sample, a list: first the prompt, then what each token brings."""
        stop = [stop] if isinstance(stop, str) else stop
        samples = [TextDecoder(self.token_bytes, None if ignore_eos else self.eos, stop) for _ in range(num_samples)]
        idx = self.encode(prompt).repeat(num_samples, 1)
        yield [prompt] * num_samples
        for tokens in self.model.stream(idx, max_new_tokens, automaton=self.automaton, **sampling):
            yield [sample.add(token) for sample, token in zip(samples, tokens.tolist(), strict=True)]
            if all(sample.ended for sample in samples):
                break
        yield [sample.finish() for sample in samples]

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
