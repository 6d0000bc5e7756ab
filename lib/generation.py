"""Writing with a GPT: tokens are drawn, one after another, and become text. It is `GPT.generate`, made fast.

B: sequences, V: tokens in the vocabulary.
"""

import codecs
import dataclasses
import math
import sys

import torch

from lib.errors import UserError
from lib.tokens.tokenizer import special_ids, token_bytes
from lib.tokens.utf8 import token_automaton

ONE = 1 << 30  # A probability of 1. The sum of whole numbers is the same in any order, which a GPU does not keep to.
UNREAD = 32  # tokens that a GPU writes before it waits for the host to read them
REFUSED = []  # The graph that a GPU refused: no other one is tried. It is kept, since torch's memory still knows of it.


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: see `next_token`. The same seed gives the same tokens."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None


# --- one token


def next_token(logits, seen, sampling, generator=None):
    """Draw the next token of each sequence. Returns them, (B,), and whether all logits were finite.

    logits: (B, V). seen: (B, V) or None, the tokens that repetition_penalty (https://arxiv.org/abs/1909.05858) makes
    less likely. temperature: 0 takes the most likely token. Of the others, those are kept that are among the top_k
    most likely (0: all), at least min_p times as likely as the most likely one (https://arxiv.org/abs/2407.01082), and
    among the fewest that reach a probability of top_p together (nucleus, https://arxiv.org/abs/1904.09751).
    Nothing here waits for a GPU.
    """
    if seen is not None:
        penalty = sampling.repetition_penalty
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    highest = logits.amax(dim=-1, keepdim=True)
    finite = highest.isfinite().all()
    if sampling.temperature < 1e-5:
        return logits.argmax(dim=-1), finite
    logits = (logits - highest) / sampling.temperature
    if 0 < sampling.top_k < logits.size(-1):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], -torch.inf)
    weights = (logits.softmax(dim=-1) * ONE).int()
    if sampling.min_p:
        weights = weights.where(weights >= weights.amax(dim=-1, keepdim=True) * sampling.min_p, 0)
    if sampling.top_p < 1:
        enough = math.ceil(sampling.top_p * ONE)
        if weights.is_cpu:
            return draw_from_nucleus(weights, enough, generator)[:, 0], finite
        weights = keep_nucleus(weights, enough)
    return draw_token(weights, generator)[:, 0], finite


def draw_token(weights, generator):
    """A token of each sequence, (B, 1), as likely as it weighs. weights: (B, V), whole numbers."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.int32)
    total = cumulative[:, -1:]
    point = torch.randint(ONE, total.shape, generator=generator, device=total.device) * total // ONE
    return torch.searchsorted(cumulative, point.int(), right=True).clamp(max=weights.size(-1) - 1)


def keep_nucleus(weights, enough):
    """0 instead of all weights but those of the likeliest tokens, the fewest that weigh enough together, (B, V)."""
    likely = weights.sort(dim=-1, descending=True).values
    kept = likely.where(likely.cumsum(dim=-1) - likely < enough, ONE)
    return weights.where(weights >= kept.amin(dim=-1, keepdim=True), 0)


def draw_from_nucleus(weights, enough, generator):
    """`draw_token` from what `keep_nucleus` keeps, without sorting: that would take a CPU several times as long.

    A token drawn from all belongs to the nucleus if the more likely ones do not weigh enough. If it does not belong,
    the less likely ones do not either, and the next draw is from the others. A GPU would have to wait in this loop.
    """
    token = draw_token(weights, generator)
    while True:
        weight = weights.gather(1, token)
        outside = weights.where(weights > weight, 0).sum(dim=-1, keepdim=True, dtype=torch.int32) >= enough
        if not outside.any():
            return token
        weights = weights.masked_fill(outside & (weights <= weight), 0)
        token = torch.where(outside, draw_token(weights, generator), token)


# --- many tokens


class KVCache:
    """The keys and values of every layer for the tokens seen so far, so that each is computed once."""

    def __init__(self, config, batch_size, device):
        shape = (config.n_layer, batch_size, config.n_kv_head, config.block_size, config.head_size)
        self.keys, self.values = torch.zeros(2, *shape, device=device)
        self.length = torch.zeros(1, dtype=torch.int64, device=device)  # A CUDA graph reads a tensor anew each time.

    def append(self, n):
        """Make room for n tokens. Returns their positions, (n,), and what each layer gets as its cache: see Attention.

        On a CPU that is of the tokens so far. Elsewhere it is of the whole block_size, masked, always of one shape.
        """
        positions = self.length + torch.arange(n, device=self.length.device)
        self.length += n
        keys, values, mask = self.keys, self.values, None
        if self.length.is_cpu:
            length = self.length.item()
            keys, values = keys[:, :, :, :length], values[:, :, :, :length]
        if not self.length.is_cpu or 1 < n < length:
            mask = torch.arange(keys.size(3), device=keys.device) <= positions[:, None]
        return positions, [(k, v, positions, mask) for k, v in zip(keys, values, strict=True)]


class Writer:
    """What changes from token to token. Its tensors stay in their places, by which a CUDA graph knows them."""

    def __init__(self, model, idx, sampling, automaton):
        self.model, self.sampling, self.automaton = model, sampling, automaton
        self.generator = torch.Generator(idx.device)
        self.generator.manual_seed(sampling.seed) if sampling.seed is not None else self.generator.seed()
        self.cache = KVCache(model.config, len(idx), idx.device)
        self.token, self.state = torch.zeros_like(idx[:, :1]), torch.zeros_like(idx[:, 0])
        self.healthy = torch.ones((), dtype=torch.bool, device=idx.device)
        self.seen = None
        if sampling.repetition_penalty != 1:
            self.seen = torch.zeros(len(idx), model.embedding.num_embeddings, dtype=torch.bool, device=idx.device)
            self.seen.scatter_(1, idx, True)

    def step(self, tokens):
        """Choose `token`, (B, 1), which follows the tokens that are in the cache and these, (B, T)."""
        logits = self.model(tokens, kv_cache=self.cache)
        if self.automaton:
            allowed, next_state = self.automaton
            logits = logits.where(allowed[self.state], -torch.inf)
        chosen, finite = next_token(logits, self.seen, self.sampling, self.generator)
        self.token.copy_(chosen[:, None])
        self.healthy.logical_and_(finite)
        if self.automaton:
            self.state.copy_(next_state[self.state, chosen])
        if self.seen is not None:
            self.seen.scatter_(1, self.token, True)


@torch.inference_mode()
def stream(model, idx, max_new_tokens, sampling, automaton=None):
    """Yield the next token of each sequence, (B,) on the CPU, max_new_tokens times.

    idx: (B, T) token ids, T >= 1. automaton: None, or (allowed, next_state), two tables (states, V) that say which
    tokens may come in a state, and the state after each. It begins in state 0 (https://arxiv.org/abs/2307.09702).
    FloatingPointError if the logits are not finite.

    The window slides in leaps: when it is full, its last half moves to the front, and the cache is computed anew from
    it, since dropping the oldest entries alone would leave keys and values that still know of them.
    """
    size = model.config.block_size
    writer = Writer(model, idx, sampling, automaton)
    window, unread, graph = idx[:, -size:], 0, None
    for i in range(max_new_tokens):
        full = window.size(1) > size
        if i == 0 or full:
            window = window[:, -(size // 2) :] if full else window
            writer.cache.length.zero_()
            writer.step(window)
        elif graph:
            graph.replay()
        else:
            writer.step(writer.token)
            graph = capture(writer) if idx.is_cuda and not REFUSED else None
        window = torch.cat((window, writer.token), dim=1)
        unread += 1
        if idx.is_cpu or unread == min(UNREAD, size // 2) or i == max_new_tokens - 1:
            if not writer.healthy:
                raise FloatingPointError(
                    "the logits are not finite: the weights are damaged, or repetition_penalty is extreme"
                )
            yield from window[:, -unread:].T.cpu()
            unread = 0


def capture(writer):
    """A step as a CUDA graph: the host launches its hundred kernels as one. None where the GPU refuses."""
    graph, stream, state = torch.cuda.CUDAGraph(), torch.cuda.current_stream(), writer.generator.clone_state()
    graph.register_generator_state(writer.generator)
    try:
        with torch.cuda.graph(graph):
            writer.step(writer.token)
    except RuntimeError as error:  # Nothing was computed, but the stream and the generator may still be capturing.
        torch.cuda.set_stream(stream)
        writer.generator.graphsafe_set_state(state)
        REFUSED.append(graph)
        why = str(error).partition("\n")[0]
        print(f"warning: no CUDA graph of generation ({why}); going on without it, slower", file=sys.stderr)
        return None
    return graph


# --- text


class TextDecoder:
    """Turns the tokens of a sample into text as they come, until <eos> or the first of the stop texts.

    A character appears when its last byte has. What a stop text may begin with appears when it is clear that none does.
    """

    def __init__(self, token_bytes, eos=None, stop=()):
        self.token_bytes, self.eos, self.stop = token_bytes, eos, stop
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.ended = "", False

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

        stop: texts; a sample of text ends before the first of them that appears. sampling: the fields of Sampling.
        """
        if isinstance(prompt, str):
            return "".join(new for [new] in self.stream(prompt, 1, max_new_tokens, ignore_eos, stop, **sampling))
        parts, ended = [prompt], torch.zeros(len(prompt), dtype=torch.bool)
        for tokens in stream(self.model, prompt, max_new_tokens, Sampling(**sampling)):
            if not ignore_eos:
                tokens = tokens.masked_fill(ended, self.eos)  # Nothing else follows one.
                ended |= tokens == self.eos
            parts.append(tokens[:, None].to(prompt.device))
            if ended.all():
                break
        return torch.cat(parts, dim=1)

    def stream(self, prompt: str, num_samples, max_new_tokens=200, ignore_eos=False, stop=(), **sampling):
        """Yield what is new in the text of each sample, a list: first the prompt, then what each token brings."""
        stop = [stop] if isinstance(stop, str) else stop
        samples = [TextDecoder(self.token_bytes, None if ignore_eos else self.eos, stop) for _ in range(num_samples)]
        idx = self.encode(prompt).repeat(num_samples, 1)
        yield [prompt] * num_samples
        for tokens in stream(self.model, idx, max_new_tokens, Sampling(**sampling), self.automaton):
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
        ids = [] if self.bos is None else [self.bos]
        ids += self.tokenizer.encode(prompt, add_special_tokens=False).ids
        ids = ids or [self.eos]  # A document begins where another has ended.
        room = self.model.config.block_size - 1
        if len(ids) > room:
            print(f"warning: the prompt has {len(ids):,} tokens, the model sees its last {room:,}", file=sys.stderr)
        return torch.tensor([ids[-room:]], device=self.model.embedding.weight.device)
