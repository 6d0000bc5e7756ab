import copy
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.generation import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from config import Config
from lib.errors import UserError
from lib.generation import ONE, KVCache, Sampling, TextDecoder, TextModel, keep_nucleus, next_token, stream
from lib.qwen3 import to_qwen3
from lib.tokens.tokenizer import SPECIAL_TOKENS, parse_tokenizer
from lib.tokens.utf8 import token_automaton
from model import GPT, attention_by_products, repeated_heads_are_faster
from sample import load

SMALL = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "block_size": 16}


def make(vocab_size=101, seed=0, **values):
    torch.manual_seed(seed)
    return GPT(Config(**SMALL | values), vocab_size).eval()


def write(model, idx, n, automaton=None, **sampling):
    """Token ids, continued by n that lib/generation.py chooses among all."""
    tokens = stream(model, idx, n, Sampling(**{"top_p": 1.0, "seed": 0} | sampling), automaton)
    return torch.cat((idx, torch.stack(list(tokens), dim=1)), dim=1)


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
def test_greedy_text_is_that_of_the_textbook_past_the_window(prompt_length):
    model = make(seed=prompt_length)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)  # a random model that prefers nothing would be a weak test
    idx = torch.randint(101, (3, prompt_length))
    greedy = write(model, idx, 45, temperature=0)
    assert greedy.shape == (3, prompt_length + 45)
    assert torch.equal(greedy, model.generate(idx, 45, temperature=0))


@pytest.mark.parametrize("temperature, top_k", [(1.0, 0), (0.5, 0), (1.0, 3), (0.7, 200)])
def test_tokens_are_drawn_as_the_textbook_does(temperature, top_k):
    model = make(vocab_size=8)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5)
        idx = torch.tensor([[1, 5, 2]])
        logits = model(idx)[0] / temperature
    logits[logits < logits.topk(min(top_k or 8, 8)).values[-1]] = -torch.inf
    torch.manual_seed(0)
    many = idx.repeat(8_000, 1)
    drawn = model.generate(many, 1, temperature, top_k), write(model, many, 1, temperature=temperature, top_k=top_k)
    for ids in drawn:
        shares = ids[:, -1].bincount(minlength=8) / len(many)
        assert torch.allclose(shares, logits.softmax(dim=-1), atol=0.02)
        assert not shares[logits.isinf()].any()


def test_a_cache_filled_in_parts_gives_the_same_logits():
    model, idx = make(), torch.randint(101, (2, 12))
    with torch.no_grad():
        cache = KVCache(model.config, 2, "cpu")
        parts = [model.hidden(part, cache) for part in idx.split((5, 1, 6), dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model.hidden(idx))


def test_the_same_seed_gives_the_same_ids():
    model, idx = make(), torch.randint(101, (2, 3))
    first, again, other = (write(model, idx, 20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_automaton_says_which_tokens_may_come():
    model, idx = make(), torch.randint(101, (2, 3))
    free = torch.ones(1, 101, dtype=torch.bool), torch.zeros(1, 101, dtype=torch.int64)
    assert torch.equal(write(model, idx, 20, automaton=free), write(model, idx, 20))
    allowed, next_state = torch.zeros(2, 101, dtype=torch.bool), torch.zeros(2, 101, dtype=torch.int64)
    allowed[0, [5, 6]], next_state[0, 5], allowed[1, 7] = True, 1, True  # 7 after each 5, and nowhere else
    for sampling in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0.5}, {"min_p": 1.0}, {"repetition_penalty": 2.0}):
        ids = write(model, idx, 40, (allowed, next_state), **sampling)[:, 3:]
        assert ((ids == 5) | (ids == 6) | (ids == 7)).all() and not (ids[:, 0] == 7).any()
        assert torch.equal(ids[:, :-1] == 5, ids[:, 1:] == 7)


def draw(p, n=4000, seen=(), **sampling):
    """How often each token is drawn from a distribution p."""
    logits = torch.tensor(p).log().expand(n, -1)
    mask = torch.zeros(n, len(p), dtype=torch.bool)
    mask[:, list(seen)] = True
    settings = Sampling(**{"temperature": 1.0, "top_p": 1.0} | sampling)
    tokens, _ = next_token(logits, mask, settings, torch.Generator().manual_seed(0))
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
        write(model, torch.tensor([[5]]), 1, temperature=0)


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


@pytest.mark.parametrize("top_p", [1e-9, 0.05, 0.3, 0.9, 0.999])
def test_sorted_the_nucleus_is_that_of_transformers(top_p):
    """As a GPU does it."""
    logits = 3 * torch.randn(20, 60, generator=torch.Generator().manual_seed(1))
    weights = (logits.softmax(dim=-1) * ONE).int()
    kept = keep_nucleus(weights, math.ceil(top_p * ONE))
    expected = TopPLogitsWarper(top_p)(None, logits).isfinite()
    assert torch.equal(kept, weights.where(expected, 0))


@pytest.mark.parametrize("T, n_kv_head", [(1, 2), (7, 1), (16, 2), (16, 4)])
def test_attention_in_bfloat16_is_that_of_torch(T, n_kv_head):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, n, T, 8).bfloat16().requires_grad_() for n in (4, n_kv_head, n_kv_head))
    ours = attention_by_products(q, k, v)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.allclose(ours.float(), theirs.float(), atol=0.03)
    grad = torch.randn_like(ours)
    pairs = (torch.autograd.grad(y, (q, k, v), grad) for y in (ours, theirs))
    for a, b in zip(*pairs, strict=True):
        assert torch.allclose(a.float(), b.float(), atol=0.1)


# --- what a GPU would do, without one


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_the_model_is_one_graph(dtype):
    torch._dynamo.reset()  # Of a length that it has met otherwise, in another test, it would make a variable.
    model, idx = make(n_layer=1).train(), torch.randint(101, (2, 16))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        torch.compile(model, backend="aot_eager", fullgraph=True)(idx, idx).backward()
    assert model.embedding.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0}, {}, {"top_p": 1.0, "min_p": 0.1}, {"top_k": 5}, {"repetition_penalty": 1.2}],
    ids=str,
)
def test_no_token_makes_a_gpu_wait(settings):
    """A tensor on the device meta has no numbers. Whoever asks for one, as for whether a loop is over, fails."""
    model = make(2000).to("meta")
    with torch.inference_mode():
        cache = KVCache(model.config, 3, "meta")
        for n in (5, 1, 1):
            logits = model(torch.ones(3, n, dtype=torch.int64, device="meta"), kv_cache=cache)
            token, _ = next_token(logits, torch.ones(3, 2000, dtype=torch.bool, device="meta"), Sampling(**settings))
        with pytest.raises(NotImplementedError):
            token.tolist()


@pytest.mark.parametrize(
    "dtype, capability, masked, grouped",
    [
        (torch.bfloat16, (9, 0), False, True),
        (torch.bfloat16, (9, 0), True, False),
        (torch.float16, (7, 5), False, False),
        (torch.float32, (9, 0), False, False),
    ],
)
def test_heads_stay_grouped_where_flash_attention_is(gpus, dtype, capability, masked, grouped):
    gpus(1, capability)
    with FakeTensorMode():
        q, k = (torch.empty(3, n, 16, 8, dtype=dtype, device="cuda") for n in (4, 2))
        mask = torch.ones(16, 16, dtype=torch.bool, device="cuda") if masked else None
        assert repeated_heads_are_faster(q, k, mask) != grouped
        assert not repeated_heads_are_faster(q, q, mask)


def test_repeated_heads_compute_the_same(monkeypatch):
    network, idx = make(), torch.randint(101, (2, 16))
    with torch.no_grad():
        expected = network(idx)
        monkeypatch.setattr("model.repeated_heads_are_faster", lambda *_: True)
        torch.testing.assert_close(network(idx), expected)


# --- text


def test_characters_appear_when_their_last_byte_does():
    text = "你好🙂a"
    decoder = TextDecoder([bytes([b]) for b in range(256)])
    shown = [decoder.add(byte) for byte in text.encode()]
    assert shown == ["", "", "你", "", "", "好", "", "", "", "🙂", "a"]
    assert decoder.add("汉".encode()[0]) == ""  # An unfinished one is not shown,
    assert "\ufffd" in decoder.add(ord("a"))  # but bytes that are no character are not hidden.


@given(st.lists(st.text("ab", max_size=3), max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_text(pieces, stop):
    decoder = TextDecoder([piece.encode() for piece in pieces], stop=stop)
    shown, whole = [decoder.add(i) for i in range(len(pieces))], "".join(pieces)
    ends = [(end, end - len(s)) for s in stop for end in range(len(whole) + 1) if whole[:end].endswith(s)]
    expected = whole[: min(ends)[1]] if ends else whole
    assert decoder.ended == bool(ends)
    assert "".join(shown) + decoder.finish() == expected


def test_only_what_may_begin_a_stop_text_is_held_back():
    decoder = TextDecoder([c.encode() for c in "ab\n#"], stop=["\n\n#"])
    assert [decoder.add(i) for i in (0, 2, 1, 2, 2, 2, 3, 0)] == ["a", "", "\nb", "", "", "\n", "", ""]
    assert decoder.ended and decoder.finish() == ""


def decodes(piece):
    try:
        return "\ufffd" not in piece.decode()
    except UnicodeDecodeError:
        return False


def test_the_automaton_knows_all_of_utf8():
    ends = [0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBC, 0xBD, 0xBE, 0xBF, 0xC0]
    pieces = [bytes([a, b]) for a in range(256) for b in range(256)]
    pieces += [bytes([a, b, c]) for a in range(0xC0, 256) for b in ends for c in ends]
    pieces += [bytes([a, b, 0x80, c]) for a in range(0xE0, 256) for b in ends for c in ends]
    pieces += [chr(c).encode() for c in range(0, 0x110000, 31) if not 0xD800 <= c < 0xE000]
    allowed, next_state = token_automaton(pieces + [bytes([b]) for b in range(256)], len(pieces) + 256)
    tails = [byte * n for n in range(4) for byte in (b"\x80", b"\xbf")]  # One of them completes what can be completed.
    for i, piece in enumerate(pieces):
        assert allowed[0, i] == any(decodes(piece + tail) for tail in tails), piece
        assert not allowed[0, i] or (next_state[0, i] == 0) == decodes(piece), piece


def test_what_may_not_come_between_the_bytes_of_a_character():
    allowed, _ = token_automaton([b"", b"a", b"\xe4", b"\xbd", b"\xa0b"], 6)
    assert allowed[0].tolist() == [True, True, True, False, False, False]  # The last row is no token.
    assert allowed[1].tolist() == [False, False, False, True, True, False]
    allowed, _ = token_automaton([b"", b"a", b"\xe4"], 3)
    assert allowed[0].tolist() == [True, True, False]  # Nothing could follow E4.


MIXED = "Hello, naïve мир! 你好，世界。龘𠀀 こんにちは 안녕 שלום سلام नमस्ते ไทย 🙂👩‍👩‍👧🏳️‍🌈𝔘∑"
ENDS_ALIKE = [
    chr(c) for c in range(0x4000, 0x5000, 64)
]  # The pair 80 E4 between two of them is more frequent than others.


@pytest.fixture(scope="module", params=["bytes", "parts of two characters"])
def random_text_model(request):
    """A model that has learned nothing. Its tokens are bytes alone, or longer too."""
    draw = random.Random(0)
    text = ["".join(draw.choices(characters, k=20)) for characters in (MIXED, ENDS_ALIKE) for _ in range(500)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=260 if request.param == "bytes" else 600,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer = parse_tokenizer(tokenizer.to_str(), "test")
    model = TextModel(make(tokenizer.get_vocab_size(), tie_embeddings=False), tokenizer, "test")
    assert (b"\x80\xe4" in model.token_bytes) == (request.param != "bytes")
    return model


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0},
        {"temperature": 50.0, "top_k": 20},
        {"top_p": 0.3},
        {"min_p": 0.9},
        {"repetition_penalty": 3.0},
        {"repetition_penalty": 0.3},
    ],
    ids=str,
)
def test_a_random_model_writes_whole_characters(random_text_model, sampling):
    model, settings = random_text_model, {"max_new_tokens": 100, "ignore_eos": True, "seed": 1} | sampling
    prompt = "你好 🙂"
    for text in map("".join, zip(*model.stream(prompt, 6, **settings), strict=True)):
        assert text.encode().decode() == text and len(text) > len(prompt) + 20
        assert "\ufffd" not in text


def test_ids_end_at_eos(random_text_model):
    text_model = copy.deepcopy(random_text_model)
    model, eos = text_model.model, text_model.eos
    with torch.no_grad():
        model.lm_head.weight[eos] = 50 * model.lm_head.weight.abs().sum(0)
        model.norm.weight.fill_(1)
    idx = torch.randint(4, 101, (2, 3))
    out = text_model.generate(idx, 30, seed=1)
    ended = (out[:, 3:] == eos).int().cummax(dim=1).values.bool()
    assert ended.any() and (out[:, 3:][ended] == eos).all()
    assert text_model.generate(idx, 30, ignore_eos=True, seed=1).shape == (2, 33)
    assert torch.equal(text_model.generate(idx, 0), idx)


def test_over_ids_a_random_model_writes_any_bytes(random_text_model):
    ids = random_text_model.generate(random_text_model.encode(""), 50, ignore_eos=True, seed=1)
    assert "\ufffd" in b"".join(random_text_model.token_bytes[i] for i in ids[0].tolist()).decode(errors="replace")


def test_a_text_that_is_cut_off_in_a_character_shows_nothing_of_it(random_text_model):
    texts = [random_text_model.generate("", n, ignore_eos=True, seed=2) for n in range(20)]
    assert all(texts[-1].startswith(text) for text in texts)
    assert 5 < len(set(texts)) < len(texts)


def test_rows_that_are_no_tokens_are_never_chosen(random_text_model):
    n = random_text_model.tokenizer.get_vocab_size()
    model = make(n + 2000, init_from="published")
    text_model = TextModel(model, random_text_model.tokenizer, "test")
    ids = text_model.encode("a")
    assert (text_model.generate(ids, 30, seed=1)[:, ids.size(1) :] >= n).any()
    assert len(text_model.generate("a", 60, ignore_eos=True, seed=1)) > 20


def test_a_prompt_that_is_not_text(run):
    with pytest.raises(UserError, match="not valid text"):
        load("run").generate("\ud800")
