"""What is measured of a trained GPT: how well it guesses, beside simpler models, what surprises it, what it copies."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from lib.errors import UserError
from lib.generation import Sampling, stream
from lib.machine.device import pick_precision
from lib.run.checkpoint import one_line_if_damaged
from lib.run.runs import LOG, LOG_HINT
from lib.tokens.memmap import Tokens
from lib.tokens.prepared import read_meta
from lib.tokens.tokenizer import read_tokenizer, token_lengths
from model import apply_rope, norm_heads
from tools.report.baselines import bigram_loss, compressed_bits, unigram_loss
from tools.report.copying import find_copies
from tools.report.published import beside_published

LONGEST_TEXT = 1 << 25  # tokens of a text that are looked at
ARITHMETIC = 8e12  # operations for the losses: half a minute on two cores
LOGITS = 1 << 22  # that are computed at once, 16 MB
PASSAGE = 256  # tokens
LOOKED_AT = 3  # of its tokens, those that surprised the model most
CONTINUATIONS, PROMPT_TOKENS, NEW_TOKENS = 32, 16, 128


def measure_run(run, text_model, checkpoint) -> SimpleNamespace:
    """Everything that the report says of a run; all losses are in nats per token.

    Raises UserError if its text is not there, or its files are damaged.
    """
    if not len(run.val[0]):
        raise UserError(f"{run.folder} has no evaluation yet; let the run go on to its first one")
    config, model = checkpoint["config"], text_model.model
    meta, train, val, n_evaluated = run_tokens(run, checkpoint)
    evaluated = val[: n_evaluated + 1]
    sample_tokens, sample, positions = measure_losses(model, train, evaluated)
    # train.py has measured it on all windows, unless it was stopped between two evaluations.
    val_loss = dict(zip(*run.val, strict=True)).get(checkpoint["step"], sample["val"][0])
    if not all(loss < 600 for loss in (val_loss, sample["val"][0], sample["train"][0])):  # or exp(loss) is no number
        raise UserError(f"{run.folder}: the loss is {val_loss:g} nats: its weights or its log are damaged")

    pieces = [piece or b"\0" for piece in text_model.token_bytes]  # No copy goes on from one document to the next.
    known = to_bytes(pieces, train)
    known_end, beginning = (text.replace(b"\0", b"") for text in (known, to_bytes(pieces, evaluated)))
    compressed = compressed_bits(beginning[:1_000_000], known=known_end[-3_000_000:])
    n_bytes, n_characters = (max(1, n[evaluated[1:]].sum()) for n in token_lengths(text_model.tokenizer))
    bits = (len(evaluated) - 1) / math.log(2)
    baselines = {
        "unigram": unigram_loss(train, evaluated, meta["vocab_size"]),
        "bigram": bigram_loss(train, evaluated, meta["vocab_size"]),
        **{name: per_byte * n_bytes / bits for name, per_byte in compressed.items()},
    }
    known, copies = known.decode(errors="replace"), []
    for rows in continuations(model, val):
        texts = [part for ids in rows for part in to_bytes(pieces, ids).decode(errors="ignore").split("\0")]
        copies.append(find_copies(known, texts))

    passage, n_parameters = guesses(model, evaluated[: PASSAGE + 1]), sum(model.parameter_counts())
    seen = max([checkpoint["tokens"], *run.series("tokens")[1]])
    return SimpleNamespace(
        run=run,
        config=config,
        step=checkpoint["step"],  # of the weights
        n_parameters=n_parameters,
        epochs=seen / meta["train"]["tokens"],
        tokens_per_parameter=seen / n_parameters,
        val_loss=val_loss,
        nats_to_bits_per_byte=bits / n_bytes,  # a factor: how many bits per byte one nat per token makes
        nats_to_bits_per_character=bits / n_characters,
        sample_tokens=sample_tokens,  # of each split, at most
        sample=sample,  # {split: (loss on a sample of it, how often the likeliest token is right)}
        baselines=baselines,  # {simpler model: its loss}
        published=beside_published(run, config, meta["train"]["sha256"]),
        # How much harder the validation text is than the training text, for a unigram model.
        unigram_gap=baselines["unigram"] - meta["unigram_entropy"],
        positions=positions,  # [(tokens seen before, loss)]
        passage=passage,  # its tokens but the first: [(token, nats, its rank, the likeliest)]
        looks=looks(model, evaluated[: PASSAGE + 1], passage),
        model_copies=copies[0],  # of training text, in what the model writes
        text_copies=copies[1],  # of training text, in the validation text
        known_tokens=len(train),  # of the training text, in which copies are sought
    )


# --- the tokens of a run


def run_tokens(run, checkpoint):
    """(meta, the ids of the training split, those of the validation split, how many of these train.py evaluates).

    Of a long split only the beginning is read. Raises UserError if the run has learned from other tokens.
    """
    config = checkpoint["config"]
    meta = read_meta(config.tokens_dir)
    with one_line_if_damaged(run.folder / LOG, LOG_HINT):
        learned = run.header["data"]["train"]["sha256"]
    if learned != meta["train"]["sha256"] or read_tokenizer(config.tokens_dir) != checkpoint["tokenizer"]:
        raise UserError(f"{config.tokens_dir} has other tokens than {run.folder} learned from; prepare its text again")
    train, val = (Tokens(config, meta, split, torch.device("cpu")) for split in ("train", "val"))
    ids = (tokens.check(tokens.head(LONGEST_TEXT)).astype(np.int64) for tokens in (train, val))
    return meta, *ids, len(val.windows(config.eval_tokens)) * config.block_size


def to_bytes(pieces, ids) -> bytes:
    """The text of an array of token ids. pieces: the bytes of each token."""
    return b"".join(map(pieces.__getitem__, ids.data))


def continuations(model, val):
    """Beginnings from all over the validation text, continued by the model and by the text: two arrays of ids."""
    n_prompt = min(PROMPT_TOKENS, len(val) // 2)
    n_new = min(NEW_TOKENS, len(val) - n_prompt)
    starts = np.linspace(0, len(val) - n_prompt - n_new, CONTINUATIONS).astype(int)
    blocks = val[starts[:, None] + np.arange(n_prompt + n_new)]
    prompts = torch.from_numpy(blocks[:, :n_prompt]).to(model.embedding.weight.device)
    written = torch.stack(list(stream(model, prompts, NEW_TOKENS, Sampling(seed=0))), dim=1)
    return written.numpy(), blocks[:, n_prompt:]


# --- losses


def measure_losses(model, train, val):
    """sample_tokens, sample and positions of measure_run. train, val: arrays of token ids."""
    budget, size = int(ARITHMETIC / 2 / sum(model.parameter_counts())), model.config.block_size
    sample_tokens, sample, nats = min(1 << 16, budget // 8), {}, {}
    for split, ids in (("val", val), ("train", train)):
        nats[split], right = token_losses(model, ids, window_starts(len(ids), size, size, sample_tokens // size), size)
        sample[split] = float(nats[split].mean()), float(right.mean())
    length = -(-size // 8)
    starts = window_starts(len(val), size, -(-length // 2), min(1 << 17, budget * 3 // 4) // length)
    short, _ = token_losses(model, val, starts, length)
    return sample_tokens, sample, loss_by_position(short, nats["val"])


def loss_by_position(short, long):
    """[(tokens seen before, mean nats)], in bins of 1, 2, 3 to 4, 5 to 8 and so on.

    short, long: the nats of many short windows, and of whole blocks. A block has few tokens with little context, so
    that a bin takes the short windows as far as they reach.
    """
    size, result = long.shape[1], []
    for first, end in itertools.pairwise([0, *(2**n for n in range(size.bit_length()) if 2**n < size), size]):
        losses = short if end <= short.shape[1] else long
        result.append(((first + 1 + end) / 2, float(losses[:, first:end].mean())))
    return result


def window_starts(n_tokens, size, step, limit):
    """Where windows of at most `size` tokens begin, a step apart, or spread over the text if those are over `limit`."""
    starts = np.arange(0, n_tokens - size, step)
    return starts[np.unique(np.linspace(0, len(starts) - 1, max(1, min(len(starts), limit))).astype(int))]


@torch.no_grad()
def token_losses(model, ids, starts, size):
    """(nats of each token that follows, whether it was the likeliest), both (len(starts), size).

    Row i is of the window of `size` tokens that begins at starts[i].
    """
    device = model.embedding.weight.device
    autocast = pick_precision(model.config.dtype, device).autocast
    batch_size = max(1, LOGITS // model.embedding.num_embeddings // size)
    # These are made first. Arrays that a batch leaves behind would lie between the freed logits, so that the next do
    # not fit there, and memory would grow by gigabytes.
    nats, right = np.empty((len(starts), size), np.float32), np.empty((len(starts), size), bool)
    for i in range(0, len(starts), batch_size):
        blocks = torch.from_numpy(ids[starts[i : i + batch_size, None] + np.arange(size + 1)]).to(device)
        targets = blocks[:, 1:]
        with autocast:
            logits = model.lm_head(model.hidden(blocks[:, :-1])).float()
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        nats[i : i + batch_size] = losses.view_as(targets).cpu()
        right[i : i + batch_size] = (logits.argmax(dim=-1) == targets).cpu()
    return nats, right


@torch.no_grad()
def guesses(model, ids, n_likely=5):
    """What the model makes of each token of a text but the first: (token, nats, its rank, the likeliest).

    Each token is guessed from half a window or more before it, or from all there is. The likeliest are
    [(token, probability)].
    """
    size, result = model.config.block_size, []
    half = max(1, size // 2)
    ids = torch.from_numpy(ids).to(model.embedding.weight.device)
    for first in range(0, len(ids) - 1, half):
        window = ids[first : first + size + 1]
        p = model.lm_head(model.hidden(window[None, :-1]))[0].float().softmax(dim=-1)
        for i in range(0 if first == 0 else size - half, len(window) - 1):
            token = window[i + 1].item()
            top = p[i].topk(n_likely)
            likely = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            nats, rank = -math.log(max(p[i, token].item(), 1e-30)), int((p[i] > p[i, token]).sum()) + 1
            result.append((token, nats, rank, likely))
    return result


# --- attention


def looks(model, ids, passage, n_likely=3):
    """What the heads of the last layer looked at before the most surprising tokens of a text.

    Returns [(the index in passage, for each head: [(a token before it, its share of the attention)])].
    """
    size, result = model.config.block_size, []
    surprising = sorted(range(len(passage)), key=lambda i: -passage[i][1])[:LOOKED_AT]
    for i in sorted(surprising):
        start = max(0, i + 1 - size)
        idx = torch.from_numpy(ids[start : i + 1]).to(model.embedding.weight.device)
        top = attention_shares(model, idx[None])[-1].topk(min(n_likely, len(idx)))
        heads = zip(idx[top.indices].tolist(), top.values.tolist(), strict=True)
        result.append((i, [list(zip(*head, strict=True)) for head in heads]))
    return result


@torch.no_grad()
def attention_shares(model, idx) -> list:
    """What share of its attention each head pays to each token of idx (1, T) at the last one: (H, T) of each layer.

    The fused kernels keep no shares, so they are computed beside them.
    """
    shares = []

    def note(attn, args):
        x, cos, sin, _ = args
        heads = attn.qkv(x).unflatten(-1, (-1, attn.head_size))[:, :, : attn.n_head + attn.n_kv_head]
        qk = apply_rope(norm_heads(heads, attn.q_norm, attn.k_norm, attn.n_head), cos, sin)[0]
        q, k = qk[-1, : attn.n_head], qk[:, attn.n_head :].repeat_interleave(attn.n_head // attn.n_kv_head, dim=1)
        shares.append((torch.einsum("hd,thd->ht", q, k) / math.sqrt(attn.head_size)).softmax(dim=-1))

    hooks = [block.attn.register_forward_pre_hook(note) for block in model.blocks]
    model.hidden(idx)
    for hook in hooks:
        hook.remove()
    return shares
