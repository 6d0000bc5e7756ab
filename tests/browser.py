"""Open the pages of tools.report in a real browser, as a reader does.

    python -m tests.browser tiny [--screenshots=FOLDER]

Needs playwright (python -m pip install playwright) and Debian's chromium, or another one in the PATH.
Reads   out/<run>/report.html and data/<dataset>/bpe<vocab_size>/tokenizer.html, as tools.report has written them
"""

import argparse
import contextlib
import itertools
import shutil
from pathlib import Path

from config import Config
from lib.run.runs import Run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENS = {"desktop": {"width": 1100, "height": 800}, "phone": {"width": 360, "height": 740}}


@contextlib.contextmanager
def opened(browser, **how):
    """(a page, the addresses that it asks for). Nothing may go wrong in it."""
    context = browser.new_context(**how)
    page, problems, requests = context.new_page(), [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    yield page, requests
    assert problems == [], problems
    context.close()


def is_dark(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(c => c < 100)")


def check_switch(page, language):
    """The page is in a language at first. The button shows the other one, by a click and by the keyboard."""
    button = page.locator("#language")
    assert button.bounding_box()["height"] >= 38 and button.bounding_box()["width"] >= 38
    other = {"en": "zh", "zh": "en"}[language]
    for shown, hidden, press in (
        (language, other, button.click),
        (other, language, lambda: page.keyboard.press("Enter")),
        (language, other, lambda: None),
    ):
        assert page.evaluate("document.documentElement.lang") == shown
        assert page.locator(f"[lang={shown}]:visible").count() > 8
        assert page.locator(f"main [lang={hidden}]:visible").count() == 0
        assert page.title() == page.locator("title").first.get_attribute(f"data-{shown}")
        assert button.inner_text() == {"en": "中文", "zh": "English"}[shown]
        assert button.inner_text() in button.get_attribute("aria-label")
        press()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")  # The keyboard reaches it, and that is seen.
    assert page.evaluate("document.activeElement.id") == "language"
    assert button.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    page.evaluate("document.activeElement.blur()")


def check(page, requests, page_file, screen, scheme, language, screenshots):
    """Raise AssertionError unless the page renders without errors and its tokens tell what they know."""
    width, touch = page.viewport_size["width"], screen == "phone"
    page.goto(page_file.as_uri())
    assert requests == [page_file.as_uri()], requests  # and nothing else: no network, no other file
    check_switch(page, language)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page is wider than the screen"
    assert page.locator("table").count() > 0
    if page_file.name == "report.html":
        check_charts(page, smallest_text=11.5 if touch else 14)

    tip = page.locator("#tip")
    assert tip.is_hidden()
    for i in (0, 20, page.locator(".token").count() - 1):  # the last one is near the lower edge
        token = page.locator(".token").nth(i)
        token.scroll_into_view_if_needed()
        token.tap() if touch else token.hover()
        known = page.evaluate("i => tokens[i]", i)
        said = tip.inner_text()
        for english, chinese in known["lines"]:
            shown, hidden = (english, chinese) if language == "en" else (chinese, english)
            assert shown in said and hidden not in said, (known, said)
        for guess, share in known.get("guesses", []):
            assert guess.strip() in said and share in said, (known, said)
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, box
    page.locator(".token").nth(3).focus()  # by the keyboard
    assert page.evaluate("tokens[3].lines[0]")[language == "zh"] in tip.inner_text()
    page.locator("h1").tap() if touch else page.locator("h1").hover()
    assert tip.is_hidden()

    assert is_dark(page) == (scheme == "dark")
    if screenshots:
        page.locator(".token").nth(20).scroll_into_view_if_needed()
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=screenshots / f"{page_file.stem}-{language}-{screen}-{scheme}.png", full_page=True)


def check_charts(page, smallest_text):
    """Two charts, as wide as the page, in its colours, with text that is large enough and does not overlap."""
    blue, orange = page.evaluate(
        """["--blue", "--orange"].map(name => {
            document.body.style.outlineColor = `var(${name})`;
            return getComputedStyle(document.body).outlineColor;
        })"""
    )
    assert page.locator("svg").count() == 2
    for i, curves in enumerate(([blue, orange], [blue])):
        chart = page.locator("svg").nth(i)
        width = chart.bounding_box()["width"]
        assert width == page.locator("main > .tiles").bounding_box()["width"]
        colors = chart.locator("path").evaluate_all("paths => paths.map(path => getComputedStyle(path).stroke)")
        assert [color for color in (blue, orange) if color in colors] == curves
        texts = chart.locator("text").evaluate_all(
            "texts => texts.map(t => t.getBBox()).map(b => [b.x, b.y, b.x + b.width, b.y + b.height])"
        )
        assert len(texts) > 8 and all((low - high) * width / 720 >= smallest_text for _, high, _, low in texts), texts
        for a, b in itertools.combinations(texts, 2):
            overlap = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
            assert min(overlap) <= 0.1 * smallest_text, (a, b)  # room for accents and the like is not used


def main():
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a name under out/")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="keep a picture of each page")
    args = parser.parse_args()
    run = Run(args.run)
    config = Config(**run.header["config"])
    if args.screenshots:
        args.screenshots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for page_file in (run.folder / "report.html", config.tokens_dir / "tokenizer.html"):
            for screen, scheme, language in itertools.product(SCREENS, ("light", "dark"), ("en", "zh")):
                how = {"viewport": SCREENS[screen], "color_scheme": scheme, "has_touch": screen == "phone"}
                with opened(browser, locale={"en": "en-US", "zh": "zh-CN"}[language], **how) as (page, requests):
                    check(page, requests, page_file, screen, scheme, language, args.screenshots)
                print(f"{page_file.name}, {screen}, {scheme}, {language}: as it should be")
        browser.close()


if __name__ == "__main__":
    main()
