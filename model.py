"""The GPT: what is computed, and how text is generated from it.

A decoder-only transformer that computes exactly what Qwen3 (dense) computes, so that what is trained
here opens in other tools. Qwen3: https://arxiv.org/abs/2505.09388

B: sequences in the batch, T: tokens in a sequence, C: n_embd, H: heads, D: head size.
"""

import math
import sys

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    """Scale each vector to root mean square 1, then by a learned weight (https://arxiv.org/abs/1910.07467)."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        # The weight is cast to the type of x. Otherwise torch warns under autocast and leaves its fused kernel.
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Linear(nn.Linear):
    """A matrix product, without bias."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x):
        if ONEDNN and x.is_cpu and not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            return ONEDNN(x, self.weight, None, "none", [], "")
        return F.linear(x, self.weight)


# For the few rows of generation torch's own choice, MKL, can take twice as long as oneDNN.
ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def apply_rope(x, cos, sin):
    """Rotate each pair x[i], x[i + D/2] by an angle that grows with the position (https://arxiv.org/abs/2104.09864).

    x: (B, T, H, D); cos, sin: (T, 1, D), the sine negative for the first half.
    """
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)


def attend(q, k, v, mask=None):
    """Attention, (B, H, T, D). q: (B, H, T, D); k, v: (B, H_kv, T_kv, D); mask: (T, T_kv), None for a causal one."""
    B, H, T, D = q.shape
    n_groups = B * k.size(1)
    if q.is_cpu and q.dtype == torch.bfloat16 and mask is None and k.size(2) == T:
        # These matrix products compute what torch's kernel computes. In bfloat16 CPUs do them three times as fast.
        future = torch.full((T, T), -torch.inf, dtype=q.dtype).triu(1)
        scores = (q * D**-0.5).reshape(n_groups, -1, D) @ k.reshape(n_groups, T, D).transpose(1, 2)
        weights = (scores.view(n_groups, -1, T, T) + future).softmax(dim=-1)
        return (weights.view(n_groups, -1, T) @ v.reshape(n_groups, T, D)).view(B, H, T, D)
    if (k.size(1) != H and q.is_cuda) and (
        mask is not None or q.dtype == torch.float32 or torch.cuda.get_device_capability(q.device) < (8, 0)
    ):  # Of the fused kernels only flash attention knows grouped heads, and it knows no mask.
        k, v = (x.repeat_interleave(H // x.size(1), dim=1) for x in (k, v))
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None and T > 1, enable_gqa=k.size(1) != H
    )


class Attention(nn.Module):
    """Causal self-attention whose key/value heads serve several query heads (https://arxiv.org/abs/2305.13245)."""

    def __init__(self, config):
        super().__init__()
        self.n_head, self.n_kv_head, self.head_size = config.n_head, config.n_kv_head, config.head_size
        self.qkv = Linear(config.n_embd, (self.n_head + 2 * self.n_kv_head) * self.head_size)
        self.q_norm = RMSNorm(self.head_size, config.norm_eps)
        self.k_norm = RMSNorm(self.head_size, config.norm_eps)
        self.proj = Linear(self.n_head * self.head_size, config.n_embd)

    def forward(self, x, cos, sin, cache=None):
        """x: (B, T, C). cache: None, or (keys, values, positions, mask): this layer's, and where x belongs in it."""
        B, T, _ = x.shape
        qkv = self.qkv(x).view(B, T, -1, self.head_size)
        qk, v = qkv.split((self.n_head + self.n_kv_head, self.n_kv_head), dim=2)
        # One call norms and turns the heads of q and k. Each call costs as much as what it computes for one token.
        weight = torch.cat((self.q_norm.weight.expand(self.n_head, -1), self.k_norm.weight.expand(self.n_kv_head, -1)))
        qk = F.rms_norm(qk, (self.head_size,), eps=self.q_norm.eps) * weight.to(qk.dtype)
        qk = apply_rope(qk, cos.to(qk.dtype), sin.to(qk.dtype)).transpose(1, 2)
        q, k = qk.split((self.n_head, self.n_kv_head), dim=1)
        v, mask = v.transpose(1, 2), None
        if cache is not None:
            keys, values, positions, mask = cache
            k, v = keys.index_copy_(2, positions, k), values.index_copy_(2, positions, v)
        y = attend(q, k, v, mask)
        return self.proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, config):
        super().__init__()
        self.gate_up = Linear(config.n_embd, 2 * config.ffn_size)
        self.proj = Linear(config.ffn_size, config.n_embd)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.proj(F.silu(gate) * up)


class Block(nn.Module):
    """Attention, then the MLP; each reads the normed residual stream and adds to it."""

    def __init__(self, config):
        super().__init__()
        self.attn_norm = RMSNorm(config.n_embd, config.norm_eps)
        self.attn = Attention(config)
        self.mlp_norm = RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, cos, sin, cache=None):
        x = x + self.dropout(self.attn(self.attn_norm(x), cos, sin, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class KVCache:
    """The keys and values of every layer for the tokens seen so far, so that each is computed once."""

    def __init__(self, config, batch_size, device):
        shape = (config.n_layer, batch_size, config.n_kv_head, config.block_size, config.head_size)
        self.keys, self.values = torch.zeros(2, *shape, device=device)
        # A tensor, so that a CUDA graph does the same for every length.
        self.length = torch.zeros(1, dtype=torch.int64, device=device)

    def append(self, n):
        """Make room for n tokens. Returns their positions, (n,), and (keys, values, positions, mask) for each layer.

        On a CPU these are of the tokens so far. Elsewhere they are of the whole block_size, masked, always one shape.
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


class GPT(nn.Module):
    """Token ids in, logits or a loss out. config: a Config, of which only the shape and the dropout count."""

    def __init__(self, config, vocab_size):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = Linear(config.n_embd, vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.embedding.weight
        frequency = config.rope_theta ** -(torch.arange(0, config.head_size, 2).float() / config.head_size)
        angle = torch.outer(torch.arange(config.block_size).float(), frequency)  # (T, D/2)
        cos, sin = torch.cat((angle.cos(), angle.cos()), dim=-1), torch.cat((-angle.sin(), angle.sin()), dim=-1)
        self.register_buffer("cos", cos[:, None], persistent=False)  # (T, 1, D): the same for all heads
        self.register_buffer("sin", sin[:, None], persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # 2 * n_layer projections add to the residual stream. Scaled like this, their sum starts small.
                scale = 1 / math.sqrt(2 * config.n_layer) if name.endswith("proj.weight") else 1
                nn.init.normal_(weight, std=0.02 * scale)

    def hidden(self, idx, kv_cache=None):
        """The final normed state of each position, (B, T, C). idx: (B, T) token ids, T <= block_size."""
        caches, positions = [None] * len(self.blocks), slice(idx.size(1))
        if kv_cache is not None:
            positions, caches = kv_cache.append(idx.size(1))
        cos, sin = self.cos[positions], self.sin[positions]
        x = self.embedding(idx)
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, cos, sin, cache)
        return self.norm(x)

    def forward(self, idx, targets=None, kv_cache=None):
        """With targets (B, T): the mean loss in nats per token, float32. Without: the last logits, (B, vocab)."""
        x = self.hidden(idx, kv_cache)
        if targets is None:
            return self.lm_head(x[:, -1]).float()
        return F.cross_entropy(self.lm_head(x).float().flatten(0, 1), targets.flatten())

    def parameter_counts(self) -> tuple[int, int]:
        """(embedding, non-embedding) parameters; a tied matrix counts once."""
        embedding = {id(p): p.numel() for p in (self.embedding.weight, self.lm_head.weight)}
        total = sum(p.numel() for p in self.parameters())
        return sum(embedding.values()), total - sum(embedding.values())

    @torch.inference_mode()
    def stream(
        self,
        idx,
        max_new_tokens,
        *,
        temperature=0.8,
        top_k=0,
        top_p=0.95,
        min_p=0.0,
        repetition_penalty=1.0,
        seed=None,
        automaton=None,
        use_cache=True,
    ):
        """Yield the next token of each sequence, (B,) on the CPU, max_new_tokens times.

        idx: (B, T) token ids, T >= 1. The sampling parameters are those of `next_token`.
        automaton: None, or (allowed, next_state), two tables (states, vocab) that say which tokens may come in a
        state, and the state after each. It begins in state 0 (https://arxiv.org/abs/2307.09702).
        FloatingPointError if the logits are not finite.

        The window slides in leaps: when it is full, its last half moves to the front, and the cache is
        computed anew from it, since dropping the oldest entries alone would leave keys and values that
        still know of them. Without the cache the windows are the same, and so is the text.
        """
        size = self.config.block_size
        generator = torch.Generator(idx.device)
        generator.manual_seed(seed) if seed is not None else generator.seed()
        cache = KVCache(self.config, len(idx), idx.device) if use_cache else None
        seen = None
        if repetition_penalty != 1:
            seen = torch.zeros(len(idx), self.embedding.num_embeddings, dtype=torch.bool, device=idx.device)
            seen.scatter_(1, idx, True)
        # What changes from token to token stays in its place: a CUDA graph knows tensors by their addresses.
        token, state = torch.zeros_like(idx[:, :1]), torch.zeros_like(idx[:, 0])
        healthy = torch.ones((), dtype=torch.bool, device=idx.device)

        def step(tokens):
            """Choose `token`, which follows the tokens that are in the cache and these."""
            logits = self(tokens, kv_cache=cache)
            if automaton:
                logits = logits.where(automaton[0][state], -torch.inf)
            chosen, finite = next_token(logits, seen, temperature, top_k, top_p, min_p, repetition_penalty, generator)
            token.copy_(chosen[:, None])
            healthy.logical_and_(finite)
            if automaton:
                state.copy_(automaton[1][state, chosen])
            if seen is not None:
                seen.scatter_(1, token, True)

        window, recent, unread, graph = idx[:, -size:], [], [], None
        for i in range(max_new_tokens):
            full = window.size(1) + len(recent) > size
            if i == 0 or full or not use_cache:
                window, recent = torch.cat((window, *recent), dim=1)[:, -(size // 2) if full else 0 :], []
                if use_cache:
                    cache.length.zero_()
                step(window)
            elif graph:
                graph.replay()
            else:
                step(token)
                graph = capture(step, token, generator) if idx.is_cuda and not REFUSED else None
            recent.append(token.clone())
            unread.append(recent[-1][:, 0])
            if idx.is_cpu or len(unread) == UNREAD or i == max_new_tokens - 1:
                if not healthy:
                    raise FloatingPointError(
                        "the logits are not finite: the weights are damaged, or repetition_penalty is extreme"
                    )
                yield from torch.stack(unread).cpu()
                unread = []

    def generate(self, idx, max_new_tokens, eos=None, **sampling):
        """Continue token ids, (B, T) in, (B, T + new) out.

        eos: the token that ends a sequence; what follows it is eos too. sampling: see `stream`.
        """
        ended, new = torch.zeros(len(idx), dtype=torch.bool), []
        for token in self.stream(idx, max_new_tokens, **sampling):
            if eos is not None:
                token = token.masked_fill(ended, eos)
                ended |= token == eos
            new.append(token)
            if ended.all():
                break
        return torch.cat((idx, torch.stack(new, dim=1).to(idx.device)), dim=1) if new else idx


# A GPU writes so many tokens before it waits for the host to read them.
UNREAD = 32


def capture(step, token, generator):
    """A step as a CUDA graph: the host launches its hundred kernels as one. None where the GPU refuses."""
    graph, stream, state = torch.cuda.CUDAGraph(), torch.cuda.current_stream(), generator.clone_state()
    graph.register_generator_state(generator)
    try:
        with torch.cuda.graph(graph):
            step(token)
    except RuntimeError as error:  # Nothing was computed, but the stream and the generator may still be capturing.
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(state)
        REFUSED.append(graph)
        why = str(error).partition("\n")[0]
        print(f"warning: no CUDA graph of generation ({why}); going on without it, slower", file=sys.stderr)
        return None
    return graph


# The graph that a GPU refused: no other one is tried. It is kept, since torch's memory still knows of it.
REFUSED = []


def next_token(logits, seen, temperature, top_k, top_p, min_p, repetition_penalty, generator=None):
    """Draw the next token of each sequence. Returns them, (B,), and whether all logits were finite.

    logits: (B, vocab). seen: (B, vocab) or None, the tokens that repetition_penalty (https://arxiv.org/abs/1909.05858)
    makes less likely. temperature: 0 takes the most likely token. Of the others, those are kept that are among
    the top_k most likely (0: all), among the fewest that reach a probability of top_p together (nucleus,
    https://arxiv.org/abs/1904.09751), and at least min_p times as likely as the most likely one
    (https://arxiv.org/abs/2407.01082). Nothing here waits for a GPU.
    """
    if repetition_penalty != 1:
        penalized = torch.where(logits > 0, logits / repetition_penalty, logits * repetition_penalty)
        logits = torch.where(seen, penalized, logits)
    highest = logits.amax(dim=-1, keepdim=True)
    finite = highest.isfinite().all()
    if temperature < 1e-5:
        return logits.argmax(dim=-1), finite
    logits = (logits - highest) / temperature
    if 0 < top_k < logits.size(-1):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    # Whole numbers have the same sum in any order. On a GPU the order changes from run to run.
    weights, enough = (logits.softmax(dim=-1) * ONE).int(), math.ceil(top_p * ONE)
    if min_p:
        weights = weights.where(weights >= weights.amax(dim=-1, keepdim=True) * min_p, 0)
    if top_p < 1 and not weights.is_cpu:
        # A GPU would have to wait in the loop below. It sorts all tokens, which would take a CPU several times as long.
        weights = keep_nucleus(weights, enough)
    # A token drawn from all belongs to the nucleus if the more likely ones do not reach top_p.
    # If it does not belong, the less likely ones do not either, and the next draw is from the others.
    token, outside = torch.zeros_like(highest, dtype=torch.int64), torch.ones_like(highest, dtype=torch.bool)
    while True:
        cumulative = weights.cumsum(dim=-1, dtype=torch.int32)
        point = torch.randint(ONE, highest.shape, generator=generator, device=logits.device) * cumulative[:, -1:] // ONE
        drawn = torch.searchsorted(cumulative, point.int(), right=True).clamp(max=logits.size(-1) - 1)
        token = torch.where(outside, drawn, token)
        if top_p == 1 or not weights.is_cpu:
            return token[:, 0], finite
        weight = weights.gather(1, token)
        outside = weights.where(weights > weight, 0).sum(dim=-1, keepdim=True, dtype=torch.int32) >= enough
        if not outside.any():
            return token[:, 0], finite
        weights = weights.masked_fill(outside & (weights <= weight), 0)


ONE = 1 << 30  # a probability of 1, as a whole number


def keep_nucleus(weights, enough):
    """0 instead of all weights but those of the likeliest tokens, the fewest that weigh enough together. (B, vocab)."""
    likely = weights.sort(dim=-1, descending=True).values
    kept = likely.where(likely.cumsum(dim=-1) - likely < enough, ONE)
    return weights.where(weights >= kept.amin(dim=-1, keepdim=True), 0)
