"""The page of a service that runs, in a real browser (`make pages`): by mouse and keyboard, without JavaScript, …"""

import json
import time
from itertools import product

import pytest
from browsers import DESK, PHONE, axe, launched
from served import marked, plain, served, watermark

pytestmark = pytest.mark.browser

SCRIPT = "<script>document.title = 'run'; alert(1)</script><img src=x onerror=alert(2)>"
ARABIC = "كتبت المدينة رسالة طويلة عن حصاد الزيتون في المتوسط 👩‍👩‍👧 وعن البحر 😀 والسفن القديمة التي لا تعود."
CONFIG = """
operator = "Example Press"
contact = "marks@example.org"
[tiers.public]
[tiers.experts]
tokens = ["sha256:%s"]
[limits]
tokens = 20500
""" % ("0" * 64)


@pytest.fixture(scope="module")
def chromium():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    return watermark(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def address(mark):
    config = mark.with_name("service.toml")
    config.write_text(CONFIG, encoding="utf-8")
    with served(mark.parent, "-w", mark, "--config", config) as (_, at, _):
        yield at


@pytest.fixture
def show(chromium, address):
    """Opens the page; whatever it fetches from elsewhere, says, or may not do by its policy is a failure."""
    opened = []

    def view(scheme="light", width=DESK, **settings):
        context = chromium.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            reduced_motion="reduce",
            **settings,
        )
        page = context.new_page()
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("dialog", lambda dialog: page.said.append(dialog.message))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(f"{address}/")
        opened.append((context, page))
        return page

    yield view
    for context, page in opened:
        assert {url.partition("#")[0] for url in page.asked} == {f"{address}/"}
        # Chromium reports answers of 4xx as errors of the page.
        assert [
            line for line in page.said if "the server responded with a status of 4" not in line
        ] == []
        assert context.cookies() == []
        context.close()


def ask(page, text):
    """Paste a text and press the button; the heading of what comes."""
    page.fill("#text", text)
    with page.expect_navigation():
        page.click("button")
    return page.inner_text("#result, #problem")


def test_paste_and_verdict(show, mark):
    page = show()
    text = marked(mark)
    assert ask(page, text) == "Watermark found"
    assert page.title() == "Watermark found – watermark check"
    assert page.evaluate("document.activeElement.id") == "result"
    assert "practically no unrelated text looks this good" in page.inner_text("main")
    assert page.locator(".text.card i:not(.none)").count() > 150
    assert page.input_value("#text") == text
    assert (
        page.inner_text("section[aria-labelledby=words] > .text.card").split()[-3:]
        == text.split()[-3:]
    )
    assert ask(page, plain(200)) == "Watermark not found"
    assert "This does not say that the text is not ours" in page.inner_text("main")
    assert ask(page, "A few words.") == "Too short to tell"


def test_a_script_in_the_text_is_text(show):
    page = show()
    assert ask(page, f"{SCRIPT} {plain(60)} </textarea>{SCRIPT}") == "Watermark not found"
    assert page.title() == "Watermark not found – watermark check"
    assert SCRIPT in page.inner_text("section[aria-labelledby=words] > .text.card")
    assert page.input_value("#text").endswith(f"</textarea>{SCRIPT}")
    assert page.locator("main script, main img").count() == 0


def test_the_policy_would_stop_a_script(show):
    """Or the tests above say nothing of it."""
    page = show()
    page.evaluate(
        """const s = document.createElement("script"); s.textContent = "document.title = 'run'";
        document.body.append(s); document.body.setAttribute("style", "color: red");"""
    )
    assert page.title() == "Watermark check"
    assert page.evaluate("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
    assert len(page.said) == 2
    assert all("Content Security Policy" in line for line in page.said)
    page.said.clear()


def test_twenty_thousand_tokens(show, mark):
    page = show()
    text = plain(10_000) + marked(mark, 300) + plain(9_700)
    began = time.monotonic()
    assert ask(page, text) == "Watermark found"
    took = time.monotonic() - began
    print(f"20,000 tokens: {took:.1f} s in the browser")
    assert took < 60
    assert "20,000" in page.inner_text(".result dl")
    page.click("text=Go to the marked passage")
    at = page.evaluate("document.getElementById('passage').getBoundingClientRect().top")
    assert -50 < at < 800
    words = page.inner_text("section[aria-labelledby=words] > .text.card")
    assert len(words.split()) > 20_000


def test_too_many_tokens_are_refused_and_kept(show):
    page = show()
    text = plain(20_600)
    assert ask(page, text) == "Too much text"
    assert page.evaluate("document.activeElement.id") == "problem"
    assert page.input_value("#text") == text


def test_arabic_and_emoji(show):
    page = show()
    assert ask(page, f"{ARABIC} {ARABIC}") == "Watermark not found"
    shown = page.locator("section[aria-labelledby=words] > .text.card")
    assert shown.inner_text().count(ARABIC) == 2  # no character is lost between tokens
    assert shown.evaluate("e => getComputedStyle(e).direction") == "rtl"
    assert page.evaluate("getComputedStyle(document.getElementById('text')).direction") == "rtl"
    assert page.evaluate("getComputedStyle(document.body).direction") == "ltr"


def test_without_javascript(show, mark, tmp_path):
    page = show(java_script_enabled=False)
    assert ask(page, marked(mark)) == "Watermark found"
    file = tmp_path / "letter.txt"
    file.write_text(plain(100), encoding="utf-8")
    page.set_input_files("#file", file)
    with page.expect_navigation():
        page.click("button")
    assert page.inner_text("#result") == "Watermark not found"
    assert page.locator("#text").input_value() == plain(100)


def test_by_keyboard(show, mark):
    page = show()
    focused = """[document.activeElement.id || document.activeElement.tagName,
        getComputedStyle(document.activeElement).outlineStyle]"""
    seen = []
    for _ in range(5):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
        if seen[-1][0] == "text":
            page.keyboard.insert_text(marked(mark))
    assert [name for name, _ in seen] == ["A", "text", "file", "SUMMARY", "BUTTON"]
    assert all(style != "none" for _, style in seen)
    page.keyboard.press("Enter")
    page.wait_for_selector("#result")
    assert page.evaluate("document.activeElement.id") == "result"
    page.keyboard.press("Tab")
    assert page.evaluate(focused)[0] == "SUMMARY"  # the first below the result: the other marks
    page.keyboard.press("Enter")
    assert page.is_visible("text=rows of the key were skipped")


def test_a_file_is_dropped(show, mark):
    page = show()
    give = """text => { const data = new DataTransfer();
        data.items.add(new File([text], "letter.txt", {type: "text/plain"})); return data; }"""
    data = page.evaluate_handle(give, marked(mark))
    page.dispatch_event("#text", "dragover", {"dataTransfer": data})
    assert page.locator("form.over").count() == 1
    page.dispatch_event("#text", "drop", {"dataTransfer": data})
    assert page.locator("form.over").count() == 0
    assert page.inner_text("#busy") == "letter.txt is chosen."
    page.keyboard.press("Enter")  # the button has the focus
    page.wait_for_selector("#result")
    assert page.inner_text("#result") == "Watermark found"


def test_a_test_that_runs_is_said_to_run_and_is_asked_for_once(show):
    page = show()
    page.fill("#text", plain(50))
    page.evaluate(
        """stopped = []; document.forms[0].addEventListener("submit",
            event => { stopped.push(event.defaultPrevented); event.preventDefault(); })"""
    )
    page.click("button")
    assert page.get_attribute("form", "aria-busy") == "true"
    assert page.inner_text("#busy").startswith("Testing the text.")
    page.click("button")
    assert page.evaluate("stopped") == [False, True]


def test_back_to_the_form(show):
    page = show()
    assert ask(page, plain(50)) == "Watermark not found"
    page.go_back()
    assert page.inner_text("#busy") == ""
    assert page.get_attribute("form", "aria-busy") is None


def test_an_access_token_is_not_shown_again(show):
    page = show()
    page.click("summary:has-text('Access token')")
    page.fill("#token", "wmcore_wrong")
    assert ask(page, plain(50)) == "No access"
    assert "wmcore_wrong" not in page.content()
    assert page.input_value("#text") == plain(50)


@pytest.mark.parametrize(("scheme", "width"), list(product(("light", "dark"), (PHONE, DESK))))
def test_axe_finds_nothing(show, mark, scheme, width, tmp_path):
    page = show(scheme, width)
    views = {"blank": None, "found": marked(mark), "not-found": plain(60) + ARABIC, "problem": " "}
    for name, text in views.items():
        if text is not None:
            ask(page, text)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.screenshot(path=tmp_path / f"{name}-{scheme}-{width}.png", full_page=True)
        wrong, passed = axe(page)
        assert wrong == [], name
        assert {"color-contrast", "label", "region", "skip-link", "document-title"} <= passed


@pytest.mark.parametrize("width", [320, PHONE, DESK])
def test_nothing_scrolls_sideways(show, mark, width):
    page = show(width=width)
    for text in (None, marked(mark) + "x" * 300, " "):
        if text is not None:
            ask(page, text)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_large_enough_to_be_touched(show):
    """WCAG 2.2, criterion 2.5.8, asks for 24 pixels; buttons have 44."""
    page = show(width=PHONE)
    heights = page.evaluate(
        "[...document.querySelectorAll('button, summary, input, textarea')].filter(e => e.checkVisibility())"
        ".map(e => [e.tagName, e.offsetHeight])"
    )
    assert len(heights) == 4
    assert all(height >= 44 for _, height in heights), json.dumps(heights)
