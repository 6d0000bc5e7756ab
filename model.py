"""The GPT: what is computed, and how text is generated from it.

A decoder-only transformer that computes exactly what Qwen3 (dense) computes, so that what is trained
here opens in other tools. Qwen3: https://arxiv.org/abs/2505.09388

B: sequences in the batch, T: tokens in a sequence, C: n_embd, H: heads, D: head size.
"""

import math

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
        if ONEDNN and x.is_cpu and torch.is_inference_mode_enabled():
            return ONEDNN(x, self.weight, None, "none", [], "")
        return F.linear(x, self.weight)


# For the few rows of generation torch's own choice, MKL, can take twice as long as oneDNN.
ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def apply_rope(x, cos, sin):
    """Rotate each pair x[i], x[i + D/2] by an angle that grows with the position (https://arxiv.org/abs/2104.09864).

    x: (B, H, T, D); cos, sin: (T, D), the sine negative for the first half.
    """
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)


def attend(q, k, v, mask=None):
    """Causal attention, (B, H, T, D). q: (B, H, T, D); k, v: (B, H_kv, T_kv, D); mask: (T, T_kv), if T < T_kv."""
    B, H, T, D = q.shape
    n_groups = B * k.size(1)
    if q.is_cpu and q.dtype == torch.bfloat16 and mask is None and k.size(2) == T:
        # These matrix products compute what torch's kernel computes. In bfloat16 CPUs do them three times as fast.
        future = torch.full((T, T), -torch.inf, dtype=q.dtype).triu(1)
        scores = (q * D**-0.5).reshape(n_groups, -1, D) @ k.reshape(n_groups, T, D).transpose(1, 2)
        weights = (scores.view(n_groups, -1, T, T) + future).softmax(dim=-1)
        return (weights.view(n_groups, -1, T) @ v.reshape(n_groups, T, D)).view(B, H, T, D)
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
        """x: (B, T, C). cache: None, or (keys, values, start): this layer's, filled up to position `start`."""
        B, T, _ = x.shape
        qkv = self.qkv(x).view(B, T, -1, self.head_size).transpose(1, 2)
        q, k, v = qkv.split((self.n_head, self.n_kv_head, self.n_kv_head), dim=1)
        cos, sin = cos.to(qkv.dtype), sin.to(qkv.dtype)
        q, k = apply_rope(self.q_norm(q), cos, sin), apply_rope(self.k_norm(k), cos, sin)
        mask = None
        if cache is not None:
            keys, values, start = cache
            keys[:, :, start : start + T], values[:, :, start : start + T] = k, v
            k, v = keys[:, :, : start + T], values[:, :, : start + T]
            if start and T > 1:  # is_causal would align the queries with the first keys
                mask = torch.ones(T, start + T, dtype=torch.bool, device=x.device).tril(start)
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
        self.length = 0


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
        self.register_buffer("cos", torch.cat((angle.cos(), angle.cos()), dim=-1), persistent=False)
        self.register_buffer("sin", torch.cat((-angle.sin(), angle.sin()), dim=-1), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # 2 * n_layer projections add to the residual stream. Scaled like this, their sum starts small.
                scale = 1 / math.sqrt(2 * config.n_layer) if name.endswith("proj.weight") else 1
                nn.init.normal_(weight, std=0.02 * scale)

    def hidden(self, idx, kv_cache=None):
        """The final normed state of each position, (B, T, C). idx: (B, T) token ids, T <= block_size."""
        start = kv_cache.length if kv_cache else 0
        end = start + idx.size(1)
        cos, sin = self.cos[start:end], self.sin[start:end]
        x = self.embedding(idx)
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, (kv_cache.keys[i], kv_cache.values[i], start) if kv_cache else None)
        if kv_cache:
            kv_cache.length = end
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
        """Yield the next token of each sequence, (B,), max_new_tokens times.

        idx: (B, T) token ids, T >= 1. The sampling parameters are those of `next_token`.
        automaton: None, or (allowed, next_state), two tables (states, vocab) that say which tokens may come in a
        state, and the state after each. It begins in state 0 (https://arxiv.org/abs/2307.09702).

        The window slides in leaps: when it is full, its last half moves to the front, and the cache is
        computed anew from it, since dropping the oldest entries alone would leave keys and values that
        still know of them. Without the cache the windows are the same, and so is the text.
        """
        size = self.config.block_size
        generator = torch.Generator(idx.device)
        generator.manual_seed(seed) if seed is not None else generator.seed()
        seen = torch.zeros(idx.size(0), self.embedding.num_embeddings, dtype=torch.bool, device=idx.device)
        seen.scatter_(1, idx, True)
        state = torch.zeros_like(idx[:, 0])
        window, cache = idx[:, -size:], None
        for _ in range(max_new_tokens):
            if window.size(1) > size:
                window, cache = window[:, -(size // 2) :], None
            if not use_cache:
                logits = self(window)
            elif cache is None:
                cache = KVCache(self.config, idx.size(0), idx.device)
                logits = self(window, kv_cache=cache)
            else:
                logits = self(window[:, -1:], kv_cache=cache)
            if automaton:
                allowed, next_state = automaton
                logits = logits.where(allowed[state], -torch.inf)
            token = next_token(logits, seen, temperature, top_k, top_p, min_p, repetition_penalty, generator)
            if automaton:
                state = next_state[state, token]
            seen.scatter_(1, token[:, None], True)
            window = torch.cat((window, token[:, None]), dim=1)
            yield token

    def generate(self, idx, max_new_tokens, eos=None, **sampling):
        """Continue token ids, (B, T) in, (B, T + new) out.

        eos: the token that ends a sequence; what follows it is eos too. sampling: see `stream`.
        """
        ended = torch.zeros(idx.size(0), dtype=torch.bool, device=idx.device)
        for token in self.stream(idx, max_new_tokens, **sampling):
            if eos is not None:
                token = token.masked_fill(ended, eos)
                ended |= token == eos
            idx = torch.cat((idx, token[:, None]), dim=1)
            if ended.all():
                break
        return idx


def next_token(logits, seen, temperature, top_k, top_p, min_p, repetition_penalty, generator=None):
    """Draw the next token of each sequence, (B,).

    logits: (B, vocab). seen: (B, vocab), the tokens that repetition_penalty (https://arxiv.org/abs/1909.05858)
    makes less likely. temperature: 0 takes the most likely token. Of the others, those are kept that are among
    the top_k most likely (0: all), among the fewest that reach a probability of top_p together (nucleus,
    https://arxiv.org/abs/1904.09751), and at least min_p times as likely as the most likely one
    (https://arxiv.org/abs/2407.01082). FloatingPointError if the logits are not finite.
    """
    if repetition_penalty != 1:
        penalized = torch.where(logits > 0, logits / repetition_penalty, logits * repetition_penalty)
        logits = torch.where(seen, penalized, logits)
    highest = logits.amax(dim=-1, keepdim=True)
    if not highest.isfinite().all():
        raise FloatingPointError("the logits are not finite: the weights are damaged, or repetition_penalty is extreme")
    if temperature < 1e-5:
        return logits.argmax(dim=-1)
    logits = (logits - highest) / temperature
    if 0 < top_k < logits.size(-1):
        kth = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    p = logits.softmax(dim=-1)
    most = p.amax(dim=-1, keepdim=True)
    enough = top_p if top_p < 1 else math.inf  # A sum of all can be just below 1.
    # This needs no sorting. A token drawn from all belongs to the nucleus if the more likely ones do not reach top_p.
    # If it does not belong, the less likely ones do not either, and the next draw is from the others.
    token, outside = torch.zeros_like(highest, dtype=torch.int64), torch.ones_like(highest, dtype=torch.bool)
    while True:
        cumulative = p.cumsum(dim=-1)
        point = torch.rand(highest.shape, generator=generator, device=p.device) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, point, right=True)
        token = torch.where(outside, drawn, token)
        p_token = p.gather(1, token)
        more_likely = p.where(p > p_token, 0).sum(dim=-1, keepdim=True)
        outside = (p_token < most) & ((more_likely >= enough) | (p_token < min_p * most))
        if not outside.any():
            return token[:, 0]
        p = p.masked_fill(outside & (p <= p_token), 0)
