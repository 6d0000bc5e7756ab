import math

import pytest
import torch
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.generation import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from config import Config
from lib.errors import UserError
from lib.qwen3 import to_qwen3
from lib.text import TextDecoder
from model import GPT, KVCache, attend, next_token
from sample import load

SMALL = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "block_size": 16}
EOS = 2


def make(vocab_size=101, seed=0, **values):
    torch.manual_seed(seed)
    return GPT(Config(**SMALL | values), vocab_size).eval()


def as_qwen3(model):
    """The same weights in transformers' own implementation."""
    c, vocab_size = model.config, model.embedding.num_embeddings
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=c.n_embd,
            intermediate_size=c.ffn_size,
            num_hidden_layers=c.n_layer,
            num_attention_heads=c.n_head,
            num_key_value_heads=c.n_kv_head,
            head_dim=c.head_size,
            max_position_embeddings=c.block_size,
            rms_norm_eps=c.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
            tie_word_embeddings=c.tie_embeddings,
        )
    )
    theirs.load_state_dict(to_qwen3(model) | {"lm_head.weight": model.lm_head.weight})
    return theirs.eval()


@pytest.mark.parametrize(
    "values",
    [
        {"n_kv_head": 2},
        {"n_kv_head": 1, "tie_embeddings": False},
        {"n_kv_head": 4, "n_layer": 3, "n_embd": 48, "block_size": 33},
        {"head_dim": 20, "intermediate_size": 70, "rope_theta": 1e6, "norm_eps": 1e-5},
        {"head_dim": 20, "intermediate_size": 70, "n_kv_head": 1, "tie_embeddings": False, "block_size": 33},
    ],
)
def test_logits_equal_qwen3(values):
    model = make(**values)
    with torch.no_grad():
        for p in model.parameters():  # larger weights than at the start, and norms that are not 1
            p.add_(torch.randn_like(p) * 0.2)
        idx = torch.randint(101, (3, model.config.block_size))
        ours, theirs = model.lm_head(model.hidden(idx)), as_qwen3(model)(idx).logits
        assert (ours - theirs).abs().max() <= 1e-5 * max(1, theirs.abs().max())
        torch.testing.assert_close(model(idx), ours[:, -1])
        loss = torch.nn.functional.cross_entropy(theirs[:, :-1].flatten(0, 1), idx[:, 1:].flatten())
        assert model(idx[:, :-1], idx[:, 1:]).item() == pytest.approx(loss.item(), rel=1e-5)


def test_the_first_loss_is_about_ln_vocab_size():
    model, idx = make(vocab_size=5000, n_embd=128), torch.randint(5000, (8, 17))
    assert model(idx[:, :-1], idx[:, 1:]).item() == pytest.approx(math.log(5000), abs=0.15)


def test_the_small_config_has_about_10m_parameters():
    embedding, rest = GPT(Config(), 5000).parameter_counts()
    assert embedding == 5000 * 384
    assert 9e6 < embedding + rest < 12e6


def test_untied_heads_are_counted_twice():
    tied, untied = make(tie_embeddings=True).parameter_counts(), make(tie_embeddings=False).parameter_counts()
    assert untied == (2 * tied[0], tied[1])


def test_every_parameter_gets_a_gradient():
    model = make(tie_embeddings=False, dropout=0.1).train()
    idx = torch.randint(101, (2, 16))
    model(idx, idx).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("prompt_length", [1, 7, 15, 16, 40])
def test_cached_generation_equals_uncached_past_the_window(prompt_length):
    model = make(seed=prompt_length)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)  # a random model that prefers nothing would be a weak test
    idx = torch.randint(101, (3, prompt_length))
    greedy = {"temperature": 0, "max_new_tokens": 45}
    cached = model.generate(idx, **greedy)
    assert cached.shape == (3, prompt_length + 45)
    assert torch.equal(cached, model.generate(idx, use_cache=False, **greedy))


def test_a_cache_filled_in_parts_gives_the_same_logits():
    model, idx = make(), torch.randint(101, (2, 12))
    with torch.no_grad():
        cache = KVCache(model.config, 2, "cpu")
        parts = [model.hidden(part, cache) for part in idx.split((5, 1, 6), dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model.hidden(idx))


def test_ids_end_at_eos():
    model = make()
    with torch.no_grad():
        model.lm_head.weight[EOS] = 50 * model.lm_head.weight.abs().sum(0)
        model.norm.weight.fill_(1)
    idx = torch.randint(4, 101, (2, 3))
    torch.manual_seed(0)
    out = model.generate(idx, 30, EOS, seed=1)
    ended = (out[:, 3:] == EOS).int().cummax(dim=1).values.bool()
    assert ended.any() and (out[:, 3:][ended] == EOS).all()
    assert model.generate(idx, 30, seed=1).shape == (2, 33)
    assert torch.equal(model.generate(idx, 0, EOS), idx)


def test_the_same_seed_gives_the_same_ids():
    model, idx = make(), torch.randint(101, (2, 3))
    first, again, other = (model.generate(idx, 20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def draw(p, n=4000, seen=(), **sampling):
    """How often each token is drawn from a distribution p."""
    logits = torch.tensor(p).log().expand(n, -1)
    mask = torch.zeros(n, len(p), dtype=torch.bool)
    mask[:, list(seen)] = True
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0} | sampling
    tokens = next_token(logits, mask, **settings, generator=torch.Generator().manual_seed(0))
    return (tokens.bincount(minlength=len(p)) / n).tolist()


def test_sampling():
    p = [0.5, 0.3, 0.15, 0.05]
    assert draw(p) == pytest.approx(p, abs=0.03)
    assert draw(p, temperature=0) == [1, 0, 0, 0]
    assert draw(p, temperature=1e-40) == [1, 0, 0, 0]
    assert draw(p, temperature=0.5) == pytest.approx([x**2 / 0.365 for x in p], abs=0.03)
    assert draw(p, top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert draw(p, top_k=100) == pytest.approx(p, abs=0.03)
    assert draw(p, top_p=0.79) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert draw(p, top_p=0.81)[2] > 0 and draw(p, top_p=0.81)[3] == 0
    assert draw(p, top_p=1e-9) == [1, 0, 0, 0]
    assert draw(p, min_p=0.5) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert draw(p, seen=[0], repetition_penalty=3.0)[0] < 0.25  # 0.5 ** 3 = 0.125 before it is normalized
    assert draw(p, seen=[0], repetition_penalty=3.0, temperature=0) == [0, 1, 0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    model = make()
    model.norm.weight.data.fill_(bad)
    with pytest.raises(FloatingPointError, match="not finite"):
        model.generate(torch.tensor([[5]]), 1, temperature=0)


@pytest.mark.parametrize("top_k, top_p, min_p", [(0, 0.9, 0.0), (0, 0.3, 0.0), (20, 0.8, 0.02), (0, 0.95, 0.1)])
def test_tokens_are_drawn_as_transformers_does(top_k, top_p, min_p):
    logits = 3 * torch.randn(1, 60, generator=torch.Generator().manual_seed(1))
    warpers = [TemperatureLogitsWarper(0.8), TopPLogitsWarper(top_p)]
    warpers[1:1] = [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    expected = logits
    for warper in warpers:
        expected = warper(None, expected)
    expected = expected.softmax(dim=-1)[0]
    p = logits[0].softmax(dim=-1).tolist()
    drawn = torch.tensor(draw(p, n=40_000, temperature=0.8, top_k=top_k, top_p=top_p, min_p=min_p))
    assert torch.equal(drawn > 0, expected > 0.0)
    assert torch.allclose(drawn, expected, atol=0.01)


@pytest.mark.parametrize("T, n_kv_head", [(1, 2), (7, 1), (16, 2), (16, 4)])
def test_attention_in_bfloat16_is_that_of_torch(T, n_kv_head):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, n, T, 8).bfloat16().requires_grad_() for n in (4, n_kv_head, n_kv_head))
    ours = attend(q, k, v)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.allclose(ours.float(), theirs.float(), atol=0.03)
    grad = torch.randn_like(ours)
    pairs = (torch.autograd.grad(y, (q, k, v), grad) for y in (ours, theirs))
    for a, b in zip(*pairs, strict=True):
        assert torch.allclose(a.float(), b.float(), atol=0.1)


def test_characters_appear_when_their_last_byte_does():
    text = "你好🙂a"
    decoder = TextDecoder([bytes([b]) for b in range(256)])
    shown = [decoder.add(byte) for byte in text.encode()]
    assert shown == ["", "", "你", "", "", "好", "", "", "", "🙂", "a"]
    assert decoder.so_far == text
    assert decoder.add("汉".encode()[0]) == "" and decoder.so_far == text  # An unfinished one is not shown,
    assert "\ufffd" in decoder.add(ord("a"))  # but bytes that are no character are not hidden.


def test_a_prompt_that_is_not_text(run):
    with pytest.raises(UserError, match="not valid text"):
        load("run").generate("\ud800")
