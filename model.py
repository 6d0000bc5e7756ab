"""The GPT: a network that guesses the next token, its loss, and how it writes.

A decoder-only transformer that computes exactly what Qwen3 (dense) computes, so that what is trained
here opens in other tools. Qwen3: https://arxiv.org/abs/2505.09388

B: sequences in the batch, T: tokens in a sequence, C: n_embd, H: query heads, H_kv: key/value heads, D: head size.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    """Scale each vector to root mean square 1, then by a learned weight (https://arxiv.org/abs/1910.07467).

    (..., size) in and out.
    """

    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        # The weight is cast to the type of x. Otherwise torch warns under autocast and leaves its fused kernel.
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Linear(nn.Linear):
    """A matrix product, without bias: (..., n_in) in, (..., n_out) out."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x):
        if onednn_is_faster(x):
            return ONEDNN(x, self.weight, None, "none", [], "")
        return F.linear(x, self.weight)


def apply_rope(x, cos, sin):
    """Rotate each pair x[i], x[i + D/2] by an angle that grows with the position (https://arxiv.org/abs/2104.09864).

    x: (B, T, H, D); cos, sin: (T, 1, D), the sine negative for the first half.
    """
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)


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
        """(B, T, C) in and out. cos, sin: of the positions, (T, 1, D).

        cache: None, or (keys, values, positions, mask) of this layer: what it knows of the tokens so far, (B, H_kv,
        T_kv, D) twice; where x belongs in it, (T,); and whom each token of x may see, (T, T_kv), None: all before it.
        """
        B, T, _ = x.shape
        heads = self.qkv(x).view(B, T, -1, self.head_size)
        qk, v = heads.split((self.n_head + self.n_kv_head, self.n_kv_head), dim=2)
        qk = norm_heads(qk, self.q_norm, self.k_norm, self.n_head)
        qk = apply_rope(qk, cos.to(qk.dtype), sin.to(qk.dtype))
        q, k = qk.transpose(1, 2).split((self.n_head, self.n_kv_head), dim=1)
        v, mask = v.transpose(1, 2), None
        if cache is not None:
            keys, values, positions, mask = cache
            k, v = keys.index_copy_(2, positions, k), values.index_copy_(2, positions, v)
        if products_are_faster(q, k, mask):
            y = attention_by_products(q, k, v)
        else:
            if repeated_heads_are_faster(q, k, mask):
                k, v = (x.repeat_interleave(self.n_head // self.n_kv_head, dim=1) for x in (k, v))
            causal, grouped = mask is None and T > 1, k.size(1) != self.n_head
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
        return self.proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU, each token by itself: (B, T, C) in and out (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, config):
        super().__init__()
        self.gate_up = Linear(config.n_embd, 2 * config.ffn_size)
        self.proj = Linear(config.ffn_size, config.n_embd)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.proj(F.silu(gate) * up)


class Block(nn.Module):
    """Attention, then the MLP. Each reads the normed residual stream, (B, T, C), and adds to it."""

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
    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=0):
        """Continue token ids, (B, T) in, (B, T + max_new_tokens) out: guess a token, append it, and so on.

        temperature: 0 takes the likeliest token. top_k: draw among so many of the likeliest (0: all).
        This is the whole idea. lib/generation.py, which sample.py uses, writes the same many times as fast.
        """
        size = self.config.block_size
        window = idx[:, -size:]
        for _ in range(max_new_tokens):
            if window.size(1) > size:
                window = window[:, -(size // 2) :]  # When it is full, its last half moves to the front.
            logits = self(window)
            if 0 < top_k < logits.size(-1):
                logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
            if temperature == 0:
                token = logits.argmax(dim=-1, keepdim=True)
            else:
                token = torch.multinomial((logits / temperature).softmax(dim=-1), num_samples=1)
            idx, window = torch.cat((idx, token), dim=1), torch.cat((window, token), dim=1)
        return idx


# --- The same numbers, faster


def onednn_is_faster(x) -> bool:
    """For the few rows of generation on a CPU. There torch's own choice, MKL, can take twice as long."""
    return bool(ONEDNN) and x.is_cpu and not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def norm_heads(qk, q_norm, k_norm, n_head):
    """q_norm of the first n_head heads, k_norm of the others, (B, T, H + H_kv, D), by one call.

    For one token, a call takes as long as what it computes.
    """
    weight = torch.cat((q_norm.weight.expand(n_head, -1), k_norm.weight.expand(qk.size(2) - n_head, -1)))
    return F.rms_norm(qk, qk.shape[-1:], eps=q_norm.eps) * weight.to(qk.dtype)


def products_are_faster(q, k, mask) -> bool:
    """In training in bfloat16 on a CPU, which computes matrix products three times as fast as torch's kernel."""
    return q.is_cpu and q.dtype == torch.bfloat16 and mask is None and k.size(2) == q.size(2)


def attention_by_products(q, k, v):
    """Causal attention, (B, H, T, D). q: (B, H, T, D); k, v: (B, H_kv, T, D)."""
    B, H, T, D = q.shape
    n_groups = B * k.size(1)
    future = torch.full((T, T), -torch.inf, dtype=q.dtype).triu(1)
    scores = (q * D**-0.5).reshape(n_groups, -1, D) @ k.reshape(n_groups, T, D).transpose(1, 2)
    weights = (scores.view(n_groups, -1, T, T) + future).softmax(dim=-1)
    return (weights.view(n_groups, -1, T) @ v.reshape(n_groups, T, D)).view(B, H, T, D)


def repeated_heads_are_faster(q, k, mask) -> bool:
    """On a GPU where flash attention is not used. Of the fused kernels it alone knows grouped heads, but no mask."""
    if k.size(1) == q.size(1) or not q.is_cuda:
        return False
    return mask is not None or q.dtype == torch.float32 or torch.cuda.get_device_capability(q.device) < (8, 0)
