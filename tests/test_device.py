"""Which device is taken, and what it must compute before."""

import contextlib

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from config import Config
from lib import generation
from lib.errors import UserError
from lib.generation import Sampling, stream
from lib.machine import device
from lib.machine.compilation import compile_model
from model import GPT

CPU = torch.device("cpu")
SMALL = Config(n_head=4, n_kv_head=2, n_embd=32, block_size=64)
computes_like_cpu = device.computes_like_cpu  # the real one, which the fixture `gpus` replaces
attention = F.scaled_dot_product_attention


def pick(name):
    return device.pick_device(name, GPT, SMALL, "float32")


class Instead(TorchFunctionMode):
    """Operations are replaced: {operation: another one}. Tensors of the CPU claim to be on a GPU, or just elsewhere."""

    def __init__(self, replaced, is_cuda=False):
        super().__init__()
        self.replaced = replaced
        self.claims = {torch.Tensor.is_cpu.__get__: False, torch.Tensor.is_cuda.__get__: is_cuda}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.claims:
            return self.claims[function]
        return self.replaced.get(function, function)(*args, **kwargs or {})


class Elsewhere(GPT):
    """A GPT that computes in its own way after it was moved to a device, were it the CPU."""

    replaced = {}  # noqa: RUF012
    mode = contextlib.nullcontext()

    def to(self, device):
        self.mode = Instead(self.replaced)
        return super().to(device)

    def forward(self, *args, **kwargs):
        with self.mode:
            return super().forward(*args, **kwargs)


def stream_elsewhere(model, *args):
    with model.mode:
        return list(stream(model, *args))


def compare(monkeypatch, function=None, instead=None, config=SMALL, dtype="float32"):
    monkeypatch.setattr(Elsewhere, "replaced", {function: instead})
    monkeypatch.setattr(device, "stream", stream_elsewhere)
    return computes_like_cpu(CPU, Elsewhere, config, dtype)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        Config(n_head=3, n_kv_head=3, n_embd=30, block_size=2),
        Config(n_head=8, n_kv_head=1, head_dim=64, tie_embeddings=False, dropout=0.5, rope_theta=1e6),
    ],
    ids=["grouped heads", "a head each", "one key/value head"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_device_that_only_rounds_is_fine(monkeypatch, config, dtype):
    found = compare(monkeypatch, config=config, dtype=dtype)
    assert found.endswith("64 of 64 tokens equal")
    assert ("gradient of embedding.weight off by 0.00%" in found) == (dtype == "float32")


def no_causality(*args, is_causal, **kwargs):
    return attention(*args, **kwargs)


def mask_moved_by_one(*args, attn_mask, **kwargs):
    return attention(*args, attn_mask=attn_mask if attn_mask is None else attn_mask.roll(1, dims=-1), **kwargs)


def heads_of_another_group(q, k, v, **kwargs):
    k, v = (x.repeat(1, q.size(1) // x.size(1), 1, 1) for x in (k, v))
    return attention(q, k, v, **kwargs | {"enable_gqa": False})


def strides_ignored(q, k, v, **kwargs):
    return attention(q, k, v.transpose(1, 2).contiguous().view(v.shape), **kwargs)


def wrong_gradient(*args, **kwargs):
    y = attention(*args, **kwargs)
    return y + 0.5 * (y - y.detach())


@pytest.mark.parametrize(
    "function, instead, what",
    [
        (attention, no_causality, "gradient of"),
        (attention, mask_moved_by_one, "logits"),
        (attention, heads_of_another_group, "gradient of"),
        (attention, strides_ignored, ""),
        (attention, wrong_gradient, "gradient of blocks"),
        (attention, lambda *args, **kwargs: attention(*args, **kwargs) * torch.nan, "loss off by nan"),
        (F.cross_entropy, lambda x, y, **_: F.cross_entropy(x, y) + 1, "loss off by"),
        (torch.addcmul, lambda x, *_: x, "gradient of"),
        (F.silu, lambda x, **_: F.gelu(x), "gradient of"),
        (torch.Tensor.index_copy_, lambda x, *_: x, "logits"),
        (torch.Tensor.cumsum, lambda x, **_: x, "logits"),
        (torch.Tensor.softmax, lambda x, dim: torch.full_like(x, torch.nan), "logits"),
    ],
)
def test_a_wrong_operation_is_found(monkeypatch, function, instead, what):
    """In bfloat16, of which most is tolerated."""
    with pytest.raises(UserError, match=rf"^device cpu does not compute what the CPU computes \({what}.*%\)$"):
        compare(monkeypatch, function, instead, dtype="bfloat16")


def raises(error):
    def call(*_, **__):
        raise error

    return call


def test_an_optimizer_that_changes_nothing_is_found(monkeypatch):
    steps = iter((torch.optim.AdamW.step, lambda _: None))  # the first on the CPU
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer: next(steps)(optimizer))
    with pytest.raises(UserError, match="loss after a step off by"):
        compare(monkeypatch)


@pytest.mark.parametrize(
    "error, why",
    [
        (NotImplementedError("not for MPS\nat line 1"), "NotImplementedError: not for MPS"),
        (AssertionError("no kernel"), "AssertionError: no kernel"),
        (torch.OutOfMemoryError("CUDA: 2 MB are not free"), "out of memory"),
    ],
)
def test_an_operation_that_raises_is_found(monkeypatch, error, why):
    with pytest.raises(UserError, match=rf"^device cpu fails where the CPU computes \({why}\)$"):
        compare(monkeypatch, torch.searchsorted, raises(error))


# --- auto, and a device that was named


def test_a_device_that_fails_is_named_in_one_line(monkeypatch, gpus, capsys):
    """The GPU is pretended, so that torch itself refuses it."""
    gpus(1)
    monkeypatch.setattr(device, "computes_like_cpu", computes_like_cpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick("auto") == CPU
    line = capsys.readouterr().err
    assert line.startswith("warning: device cuda fails where the CPU computes (") and line.count("\n") == 1
    assert line.endswith("); going on without it\n")
    with pytest.raises(UserError, match=r"^device cuda fails where the CPU computes \(.*\); use --device=cpu$"):
        pick("cuda")
    assert not capsys.readouterr().err


def test_auto_takes_the_first_that_computes_like_the_cpu(monkeypatch, gpus, capsys):
    gpus(1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)

    def check(which, *_):
        if which.type in bad:
            raise UserError(f"{which} is off")

    monkeypatch.setattr(device, "computes_like_cpu", check)
    for bad, expected in ((), "cuda"), (("cuda",), "mps"), (("cuda", "mps"), "cpu"):
        assert pick("auto").type == expected
        lines = capsys.readouterr().err.splitlines()
        assert lines == [f"warning: {name} is off; going on without it" for name in bad]


def test_one_gpu_of_several(monkeypatch, gpus):
    chosen = gpus(2)
    assert pick("cuda:1") == torch.device("cuda", 1) and chosen == [torch.device("cuda", 1)]
    with pytest.raises(UserError, match="cuda:2 is not available here: there are 2 GPUs"):
        pick("cuda:2")
    monkeypatch.setattr("lib.machine.distributed.is_torchrun", True)
    with pytest.raises(UserError, match="--device=cuda"):
        pick("cuda:1")


def test_a_gpu_that_is_too_old(monkeypatch, gpus, capsys):
    gpus(1, capability=(6, 1))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(UserError, match=r"Old card has compute capability 6\.1, .* needs 7\.5 .* --device=cpu"):
            pick(name)
    assert pick("auto") == CPU
    assert "Old card has compute capability 6.1" in capsys.readouterr().err


# --- CUDA graphs that a GPU refuses


def test_text_is_written_without_a_graph_where_it_is_refused(monkeypatch, gpus, capsys):
    gpus(1)
    restored = []

    class Generator(torch.Generator):
        def graphsafe_set_state(self, state):
            self.set_state(state.get_state())

    class Graph:
        def register_generator_state(self, generator):
            generator.seed()  # It must not be used as it is left.

    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", raises(RuntimeError("operation not permitted\nat line 1")))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream")
    monkeypatch.setattr(torch.cuda, "set_stream", restored.append)
    monkeypatch.setattr(generation, "REFUSED", [])
    gpt, idx = GPT(SMALL, 101), torch.tensor([[5, 6], [7, 8]])
    with Instead({}):
        expected = list(stream(gpt, idx, 20, Sampling(seed=1)))
    with Instead({}, is_cuda=True):
        found = [list(stream(gpt, idx, 20, Sampling(seed=1))) for _ in range(2)]
    for tokens in found:
        assert torch.equal(torch.stack(tokens), torch.stack(expected))
    assert restored == ["the stream"]
    assert capsys.readouterr().err == (
        "warning: no CUDA graph of generation (operation not permitted); going on without it, slower\n"
    )


@pytest.mark.parametrize("cuda_graphs, n_passes", [(False, 1), (True, 3)])
def test_the_passes_that_record_graphs_may_fail(monkeypatch, capsys, cuda_graphs, n_passes):
    """torch warms up in the first pass, records in the second, and launches what it has recorded in the third."""
    gpt, idx = GPT(SMALL, 101), torch.zeros(2, 8, dtype=torch.int64)
    passes = []

    def compiled(x, y):
        assert all(p.grad is None for p in gpt.parameters())  # One that is still there would be overwritten.
        passes.append(x)
        if len(passes) == bad_pass:
            raise RuntimeError("refused")
        return gpt(x, y)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: compiled)
    for bad_pass in range(1, n_passes + 2):
        passes.clear()
        result = compile_model(gpt, idx, idx, contextlib.nullcontext(), cuda_graphs)
        assert (result is gpt) == (bad_pass <= n_passes) and len(passes) == min(bad_pass, n_passes)
        assert ("torch.compile failed (RuntimeError)" in capsys.readouterr().err) == (result is gpt)
        assert all(p.grad is None for p in gpt.parameters())
