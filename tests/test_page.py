"""What tools.export --format=html writes, in a real browser: it computes what we compute, and a reader can use it.

    python -m pytest -m browser       needs playwright and chromium; with make demo's run it takes that too

A worker of the page can be asked for what it computes. All else is done as a reader does it.
"""

import contextlib
import random
import shutil

import gguf
import numpy as np
import pytest
import torch

import config
from lib.generation import Sampling, next_token, stream
from sample import load
from tests.browser import CHROMIUM, check_switch, is_dark, opened
from tools import export
from tools.report.measures import attention_shares

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

TINY = config.ROOT / "out" / "tiny"
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
# Characters of every kind that the pre-tokenizer tells apart, and those where browsers and libraries differ.
CHARACTERS = [
    *"曹操引兵而去你好𠮷龥一，。：“”！、《》",
    *"abcXYZ éüñß ÅΩд жあカㄱ한글العربية",
    *"0123456789٣Ⅷ½²",
    *" \t\n\r\u0085\u00a0\u3000\u200b\ufeff\u2028\x00\x01\x1b",
    *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~€©™→",
    *"😀👨‍👩‍👧\u0301\u0300",
    "<eos>",
    "</script>",
    "  ",
    "\r\n",
    "the world",
    "1949年",
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["one document", "tiny"])
def run(request, trained):
    """The folder of a run: the tests' own, whose only <eos> is the end of its text, and that of make demo."""
    if request.param == "one document":
        return trained / "out" / "run"
    if not TINY.exists():
        pytest.skip("make demo has not been run")
    return TINY


@pytest.fixture(scope="module")
def page_file(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "model.html"
    assert export.main([str(run), f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="module", params=["q8_0", "f16"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def worker(browser, run, kind, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "model.html"
    assert export.main([str(run), f"--type={kind}", f"--out={out}"]) == 0
    with opened_model(browser, out) as (_, worker):
        yield worker


@pytest.fixture(scope="module")
def ours(run, kind):
    """The model with the weights that the page has."""
    text_model = load(str(run))
    for weight in text_model.model.parameters():
        data, stored = export.quantize(weight.detach(), kind)
        weight.data.copy_(torch.from_numpy(gguf.quants.dequantize(data, stored).reshape(weight.shape)))
    return text_model


@pytest.fixture
def ours_exact(run):
    """A function: the bits per character of a text, with the windows of stream in lib/generation.py."""
    text_model = load(str(run))
    model, size = text_model.model, text_model.model.config.block_size

    def bits(text):
        ids, nats = [text_model.bos, *text_model.tokenizer.encode(text).ids], 0.0
        for n in range(1, len(ids)):
            start = 0
            while n - start > size:
                start += size + 1 - size // 2
            with torch.no_grad():
                logits = model(torch.tensor([ids[start:n]]))[0]
            nats -= logits.log_softmax(dim=-1)[ids[n]].item()
        return nats / np.log(2) / len(text)

    return bits


@contextlib.contextmanager
def opened_model(browser, path, width=1000, **how):
    """(the page of a model, its worker), without a network. It may ask for nothing."""
    with opened(browser, viewport={"width": width, "height": 740}, offline=True, **how) as (page, requests):
        with page.expect_worker() as worker:
            page.goto(path.as_uri())
        yield page, worker.value
        assert [url for url in requests if not url.startswith("blob:")] == [path.as_uri()]


def write(page, **settings):
    """Write with some settings, as a reader does. Returns the text."""
    page.evaluate("document.getElementById('knobs').open = true")
    for name, value in settings.items():
        page.fill(f"#{name}", str(value))
    page.click("#write")
    return text_when_ended(page)


def text_when_ended(page):
    page.locator("#more").wait_for()
    return page.locator("#text").text_content()


def test_ids_are_those_of_tokenizers(worker, ours):
    dice = random.Random(0)
    texts = ["".join(dice.choices(CHARACTERS, k=dice.randint(0, 40))) for _ in range(500)]
    assert worker.evaluate("texts => texts.map(encode)", texts) == [
        ours.tokenizer.encode(text, add_special_tokens=False).ids for text in texts
    ]


def test_logits(worker, ours, run, kind):
    size = ours.model.config.block_size
    tokens = torch.randint(4, 300, (1, size), generator=torch.Generator().manual_seed(0))
    original = load(str(run)).model
    for n in (1, 7, size - 1, size):
        theirs = torch.tensor(worker.evaluate("tokens => Array.from(logits(tokens))", tokens[0, :n].tolist()))
        with torch.inference_mode():
            logits, exact = ours.model(tokens[:, :n])[0], original(tokens[:, :n])[0]
        assert (theirs - logits).abs().max() <= 1e-3 * logits.abs().max()
        if kind == "f16":
            assert (theirs - exact).abs().max() <= 1e-2 * exact.abs().max()


@pytest.mark.parametrize("penalty", [1, 1.3])
def test_greedy_text_token_for_token(worker, ours, penalty):
    """Far beyond a full window."""
    settings = PLAIN | {"temperature": 0, "repetition_penalty": penalty}
    for prompt in ("曹操", "hello", "", "却说" * 200):
        idx = ours.encode(prompt)
        sampling = Sampling(temperature=0, repetition_penalty=penalty)
        expected = stream(ours.model, idx, 200, sampling, ours.automaton)
        found = worker.evaluate(
            """([tokens, settings]) => {
                const first = tokens.length;
                while (tokens.length < first + 200) write(tokens, settings);
                return tokens.slice(first, first + 200);
            }""",
            [idx[0].tolist(), settings],
        )
        assert found == torch.cat(list(expected)).tolist()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 7},
        {"top_p": 0.7},
        {"min_p": 0.3},
        {"repetition_penalty": 1.5},
        {"temperature": 1.5, "top_k": 12, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 0.8},
    ],
)
def test_sampling_is_that_of_next_token(worker, changed):
    settings, n = PLAIN | changed, 20_000
    logits = torch.linspace(-1, 3, 30)[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    seen = [2, 5, 11, 29]
    theirs = worker.evaluate(
        """([values, seen, settings, n]) => {
            const counts = values.map(() => 0);
            for (let seed = 0; seed < n; seed++) {
                const [token] = choose(Float32Array.from(values), seen, {...settings, seed});
                counts[token]++;
            }
            return counts;
        }""",
        [logits.tolist(), seen, settings, n],
    )
    mask = torch.zeros(n, 30, dtype=torch.bool)
    mask[:, seen] = True
    tokens, _ = next_token(logits.expand(n, -1), mask, Sampling(**settings), torch.Generator().manual_seed(0))
    counts = np.bincount(tokens, minlength=30)
    assert (np.array(theirs) > 0).tolist() == (counts > 0).tolist()
    assert np.abs(theirs - counts).sum() / 2 / n < 0.04


def torch_inside(model, tokens, off):
    """What torch computes with some parts switched off: (the last token's attention, its residual streams)."""
    streams, hooks = [], []

    def note(_, args):
        streams.append(args[0][0, -1])

    def switch_off(module, *_):
        return torch.zeros(1, len(tokens), model.config.n_embd)

    def switch_off_heads(layer):
        def without(attn_proj, args):
            y = args[0].unflatten(-1, (model.config.n_head, -1)).clone()
            y[:, :, [h for h in range(model.config.n_head) if f"{layer} head {h}" in off]] = 0
            return (y.flatten(2),)

        return without

    for layer, block in enumerate(model.blocks):
        hooks.append(block.register_forward_pre_hook(note))
        hooks.append(block.attn.proj.register_forward_pre_hook(switch_off_heads(layer)))
        for name, part in (("attention", block.attn), ("mlp", block.mlp)):
            if f"{layer} {name}" in off:
                hooks.append(part.register_forward_hook(switch_off))
    hooks.append(model.norm.register_forward_pre_hook(note))
    shares = attention_shares(model, torch.tensor([tokens]))
    for hook in hooks:
        hook.remove()
    return torch.stack(shares), streams


@pytest.mark.parametrize("off", [[], ["0 head 1"], ["1 attention"], ["0 mlp", "1 head 0"]])
def test_inside_is_what_torch_computes(worker, ours, off):
    """Attention, and what each layer would say: where the window begins with the text, and where it has slid."""
    model, size = ours.model, ours.model.config.block_size
    allowed = ours.automaton[0][0]
    generator = torch.Generator().manual_seed(0)
    tokens = [ours.bos, *torch.randint(4, 300, (2 * size,), generator=generator).tolist()]
    for n in (1, 9, size, size + 1, 2 * size, 9):  # The last one: its cache is from before.
        found = worker.evaluate(
            """([tokens, n, settings]) => {
                const found = look(tokens.slice(0, n), tokens[n], settings);
                return { ...found, heads: found.heads.map((layer) => layer.map((shares) => Array.from(shares))) };
            }""",
            [tokens, n, PLAIN | {"seed": 1, "off": off}],
        )
        with torch.no_grad():
            shares, streams = torch_inside(model, tokens[found["start"] : n], off)
            assert (torch.tensor(found["heads"]) - shares).abs().max() < 1e-4
            for said, stream in zip(found["layers"], streams, strict=True):
                p = model.lm_head(model.norm(stream)).softmax(dim=-1)
                most = p.masked_fill(~allowed, 0).topk(3).values.tolist()
                assert said["share"] == pytest.approx(p[tokens[n]].item(), abs=1e-4)
                assert [share for _, _, share in said["likely"]] == pytest.approx(most, abs=1e-4)
                assert said["rank"] == pytest.approx(
                    1 + (p > p[tokens[n]]).sum().item(), abs=3
                )  # Some are all but equal.


@pytest.mark.parametrize("changed", [{}, {"top_k": 7}, {"top_p": 0.7}, {"min_p": 0.3}, {"temperature": 0}])
def test_how_it_chose_adds_up(worker, changed):
    """What the rules leave is what next_token draws from, and the drawn number falls on what was drawn."""
    settings, n = PLAIN | changed, 20_000
    logits = torch.linspace(-1, 3, 30)[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    mask = torch.zeros(n, 30, dtype=torch.bool)
    tokens, _ = next_token(logits.expand(n, -1), mask, Sampling(**settings), torch.Generator().manual_seed(0))
    possible = set(tokens.tolist())
    for seed in range(20):
        drawn, choice = worker.evaluate(
            """([values, settings]) => {
                const logits = Float32Array.from(values), [drawn] = choose(logits, [], settings);
                return [drawn, explain(logits, [], drawn, settings)];
            }""",
            [logits.tolist(), settings | {"seed": seed}],
        )
        assert choice["left"] == len(possible)
        bars = {bar["token"]: bar for bar in choice["bars"]}
        for token, bar in bars.items():
            assert (token in possible) == (bar["share"] > 0)
            assert bar["model"] == pytest.approx(logits.softmax(dim=-1)[token].item(), abs=1e-5)
        if drawn == list(bars)[-1] and len(bars) == 9:
            continue  # It is not among the likeliest, and some before it are not shown.
        before = sum(bar["share"] for bar in bars.values() if bar["share"] > bars[drawn]["share"])
        assert before - 1e-5 <= choice["point"] <= before + bars[drawn]["share"] + 1e-5


def test_seeds_repeat_and_a_stopped_text_goes_on(browser, page_file):
    with opened_model(browser, page_file) as (page, _):
        whole = write(page, prompt="曹操", seed=3, length=120)
        assert whole.startswith("曹操") and len(whole) > 20
        assert write(page) == whole
        assert write(page, seed=4) != whole
        page.fill("#seed", "3")
        page.fill("#length", "100000")
        page.click("#write")
        page.locator("#text .token").nth(9).wait_for()
        page.click("#stop")
        page.fill("#length", "40")
        stopped = text_when_ended(page)
        page.click("#more")
        page.locator("#stop").wait_for(state="hidden")
        longer = page.locator("#text").text_content()
        assert longer.startswith(stopped) and len(longer) > len(stopped)
        assert longer.startswith(whole) or whole.startswith(longer)


def test_another_token_may_be_chosen(browser, page_file):
    with opened_model(browser, page_file) as (page, _):
        write(page, prompt="曹操", seed=3, length=60)
        before = page.locator("#text .token").all_text_contents()
        assert page.locator("#panel").is_hidden()
        page.locator("#text .token").nth(7).hover()
        known = page.locator("#known").text_content()
        page.locator("#text .token").nth(7).click()
        assert page.locator("#known").text_content() == known and "bits of surprise" in known
        shares = [float(share.removesuffix("%")) for share in page.locator("#others small").all_text_contents()]
        assert 2 <= len(shares) <= 6 and shares == sorted(shares, reverse=True) and sum(shares) <= 101
        others = page.locator("#others button[aria-pressed=false]").filter(has_not_text="<0x")
        chosen = others.first.evaluate("button => button.firstChild.textContent")
        others.first.click()
        text_when_ended(page)
        after = page.locator("#text .token").all_text_contents()
        assert after[:7] == before[:7] and after[7].replace(" ", "␣").replace("\n", "↵") == chosen


def test_the_keyboard_is_enough(browser, page_file):
    with opened_model(browser, page_file) as (page, _):
        page.fill("#prompt", "曹操")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # Write
        text_when_ended(page)
        page.focus("#text")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        chosen = page.locator("#text .chosen")
        assert chosen.evaluate("token => token === token.parentNode.children[1]")
        page.keyboard.press("Tab")  # ←
        page.keyboard.press("Enter")
        assert chosen.evaluate("token => token === token.parentNode.children[0]")


@pytest.mark.parametrize(
    ("locale", "write_is"), [("en-US", "Write"), ("zh-CN", "写"), ("zh-TW", "写"), ("fr", "Write")]
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_each_language(browser, page_file, locale, write_is, scheme):
    with opened_model(browser, page_file, 360, locale=locale, color_scheme=scheme, has_touch=True) as (page, _):
        assert page.locator("#write").inner_text() == write_is
        page.locator("#knobs").tap()
        page.locator("#write").tap()
        text_when_ended(page)
        page.locator("#text .token").nth(5).tap()
        assert page.locator("#panel").is_visible()
        page.locator("#inside summary").tap()
        page.locator("#bars tr").first.wait_for()
        # Whatever was drawn, there is room for the widest that could be.
        page.evaluate("""
            const fill = (cells, text) => document.querySelectorAll(cells).forEach((cell) => cell.textContent = text);
            fill("#bars td:first-child, #layers td:nth-child(2)", "Shakespeareanisations");
            fill("#bars td:nth-child(n + 2), #layers td:nth-child(4)", "0.0012%");
            fill("#bars tr:nth-child(n + 5) td:last-child", "cut by top-p");
        """)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert is_dark(page) == (scheme == "dark")


def look_inside(page, i):
    page.locator("#text .token").nth(i).click()
    page.locator("#inside summary").click()
    page.locator("#bars tr").first.wait_for()


def settled(page, change):
    """Wait until something inside is another than it was before a change."""
    before = page.locator("#inside").inner_html()
    change()
    page.wait_for_function("before => document.getElementById('inside').innerHTML !== before", arg=before)


def test_a_reader_looks_inside(browser, page_file):
    with opened_model(browser, page_file) as (page, worker):
        shape = worker.evaluate("model")
        write(page, prompt="曹操", seed=3, length=40)
        assert page.locator("#parts button").count() == 0  # Nothing is computed until somebody looks.
        look_inside(page, 9)
        assert page.locator("#parts button").count() == shape["n_layer"] * (shape["n_head"] + 2)
        assert page.locator("#layers tr").count() == shape["n_layer"] + 1
        first = page.locator("#attention").inner_text()
        page.locator("#parts button").nth(1).focus()
        page.keyboard.press("Enter")
        assert "layer 1, head 2" in page.locator("#attention").inner_text() != first
        attention = page.locator("#text .token").evaluate_all("all => all.map(e => +e.style.getPropertyValue('--a'))")
        assert max(attention[:9]) > 0 and not any(attention[9:])
        known = page.locator("#known").inner_text().split()[1]
        assert page.locator("#layers tr").last.locator("td").last.inner_text() == known
        settled(page, lambda: page.fill("#temperature", "3"))  # A knob shows what it does before anything is written.
        settled(page, lambda: page.locator("#back").click())


def test_a_part_is_switched_off_and_on(browser, page_file):
    with opened_model(browser, page_file) as (page, _):
        whole = write(page, prompt="曹操", seed=3, length=40)
        look_inside(page, 9)
        page.locator("#parts button").nth(-1).click()
        settled(page, lambda: page.locator("#toggle").click())
        assert "the MLP of layer" in page.locator("#off").inner_text()
        page.locator("#write").click()
        other = text_when_ended(page)
        assert other.startswith("曹操") and other != whole
        page.locator("#all_on").click()
        assert page.locator("#off").is_hidden()
        page.locator("#write").click()
        assert text_when_ended(page) == whole


def test_a_text_is_read(browser, page_file, ours_exact):
    """Its bits per character are those of the model, also beyond a window."""
    text = "话说天下大势，分久必合。" * 20
    with opened_model(browser, page_file) as (page, _):
        page.fill("#prompt", text)
        page.click("#read")
        assert text_when_ended(page) == text
        said = float(page.locator("#figures").inner_text().split(" bits per character")[0].split()[-1])
        assert said == pytest.approx(ours_exact(text), abs=0.02)
        page.fill("#prompt", "曹操")
        page.click("#read")
        page.locator("#figures", has_text=f"the text before: {said:.2f}").wait_for()


@pytest.mark.parametrize(("locale", "language"), [("en-US", "en"), ("zh-CN", "zh")])
def test_the_switch_says_everything_in_the_other_language(browser, page_file, locale, language):
    said = {"en": ("Go on", " tokens", "bits of surprise"), "zh": ("接着写", " 个 token", "意外程度")}
    with opened_model(browser, page_file, locale=locale) as (page, _):
        before = write(page, prompt="曹操", seed=3, length=30)
        page.locator("#text .token").nth(7).click()
        check_switch(page, language)
        for shown in (language, {"en": "zh", "zh": "en"}[language]):
            places = zip(("#more", "#figures", "#known"), said[shown], strict=True)
            assert all(words in page.locator(place).inner_text() for place, words in places)
            page.click("#language")
        assert page.locator("#text").text_content() == before  # and what was written stays


@pytest.mark.parametrize(("locale", "problem"), [("en-US", "weights are damaged"), ("zh-CN", "权重已损坏")])
def test_damaged_weights_are_reported(browser, page_file, locale, problem):
    with opened_model(browser, page_file, locale=locale) as (page, worker):
        worker.evaluate("for (const values of Object.values(weights)) values.fill(NaN)")
        page.click("#write")
        page.locator("#figures", has_text=problem).wait_for()
        assert page.locator("#write").is_visible() and page.locator("#stop").is_hidden()


def test_a_bad_number_is_shown_and_loses_nothing(browser, page_file):
    with opened_model(browser, page_file) as (page, _):
        before = write(page, prompt="曹操", seed=3, length=30)
        page.locator("#text .token").nth(7).click()
        page.locator("#knobs summary").click()
        page.evaluate("document.getElementById('temperature').value = -1")
        for button in ("#write", "#more", "#others button >> nth=1"):
            page.locator(button).click()
            assert page.locator("#temperature").is_visible() and page.locator("#stop").is_hidden()
            assert page.locator("#text").text_content() == before


def test_a_name_may_hold_anything(browser, trained, tmp_path):
    name = '<img src=x onerror=alert(1)> & "{{ 7 * 7 }}"'
    shutil.copytree(trained / "out" / "run", tmp_path / name)
    assert export.main([str(tmp_path / name), "--format=html"]) == 0
    with opened_model(browser, tmp_path / name / "model.html") as (page, _):
        assert page.locator("h1").text_content() == page.title() == name
