"""The pages in a real browser (`make pages`): axe finds nothing, nothing runs or is fetched, all can be reached."""

from itertools import product

import pytest
import sample_pages
from browsers import DESK, PHONE, axe, launched

pytestmark = pytest.mark.browser

PAGES = ("report", "nothing", "demo", "token", "evidence")
VIEWS = list(product(PAGES, ("light", "dark"), (PHONE, DESK)))


@pytest.fixture(scope="module")
def chromium():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{name: file} of the pages."""
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "report": sample_pages.report(tmp_path_factory.mktemp("found")),
        "nothing": sample_pages.report(tmp_path_factory.mktemp("nothing"), every=0),
        "demo": sample_pages.demo_page(),
        "token": sample_pages.token_page_of_one(),
        "evidence": sample_pages.evidence(tmp_path_factory.mktemp("evidence")),
    }
    for name, page in made.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture
def show(chromium, files):
    """Opens a page; whatever it asks for or says is a failure."""
    opened = []

    def view(name, scheme="light", width=DESK, opened_details=True):
        page = chromium.new_page(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
        )
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("dialog", lambda dialog: page.said.append(dialog.message))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(files[name].as_uri())
        if opened_details:
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        opened.append((page, files[name].as_uri()))
        return page

    yield view
    for page, address in opened:
        assert page.asked == [address]
        assert page.said == []
        page.close()


@pytest.mark.parametrize(("name", "scheme", "width"), VIEWS)
def test_axe_finds_nothing(show, name, scheme, width):
    wrong, passed = axe(show(name, scheme, width))
    assert {"color-contrast", "region", "skip-link", "html-has-lang", "document-title"} <= passed
    assert wrong == []


def test_axe_sees_what_is_wrong(show):
    """Or the test above could not fail."""
    page = show("token")
    page.evaluate(
        "document.body.style.color = '#ccc'; document.documentElement.removeAttribute('lang')"
    )
    wrong, _ = axe(page)
    assert {"color-contrast", "html-has-lang"} <= {rule for rule, _ in wrong}


@pytest.mark.parametrize(("name", "width"), list(product(PAGES, (320, PHONE, DESK))))
def test_only_tables_scroll_sideways(show, name, width):
    page = show(name, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('body *')].filter(e =>
        !e.closest('.scroll') && !e.closest('.skip') && e.getBoundingClientRect().right > innerWidth + 1)"""
    assert page.evaluate(f"{outside}.map(e => e.outerHTML.slice(0, 100))") == []


@pytest.mark.parametrize("name", PAGES)
def test_no_cell_wraps_word_by_word(show, name):
    """On a phone a cell of a table is on one line, or wide enough for some words."""
    page = show(name, width=PHONE)
    cells = page.evaluate(
        """[...document.querySelectorAll('td, th')].filter(c => c.offsetHeight).map(c =>
            [c.innerText, c.offsetWidth, c.offsetHeight / parseFloat(getComputedStyle(c).lineHeight)])"""
    )
    assert cells
    for text, cell_width, lines in cells:
        assert lines < 2 or cell_width >= 130, (text, cell_width, lines)


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_what_opens_and_scrolls(show, name):
    page = show(name, width=PHONE, opened_details=False)
    focused = """[document.activeElement.tagName, document.activeElement.className,
        getComputedStyle(document.activeElement).outlineStyle]"""
    wanted = page.evaluate("document.querySelectorAll('details:not(details:not([open]) *)').length")
    page.keyboard.press("Tab")
    first = page.evaluate(focused)
    assert first[:2] == ["A", "skip"]
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    seen = [first]
    while True:
        page.keyboard.press("Tab")
        now = page.evaluate(focused)
        if now[0] == "BODY" or len(seen) > 400:
            break
        if now[0] == "SUMMARY" and page.evaluate("!document.activeElement.parentNode.open"):
            wanted -= 1
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.parentNode.open")
            wanted += page.evaluate(
                "1 + document.activeElement.parentNode.querySelectorAll('details').length"
            )
        seen.append(now)
    assert all(style != "none" for *_, style in seen), seen
    assert sum(tag == "SUMMARY" for tag, *_ in seen) == wanted
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    # What scrolls by itself is in the order of the tab key.
    boxes = page.evaluate(
        """[...document.querySelectorAll('body *')].filter(e => e.scrollWidth > e.clientWidth + 1
            && getComputedStyle(e).overflowX != 'visible').map(e => e.className)"""
    )
    regions = [name for tag, name, _ in seen if tag == "DIV"]
    assert set(boxes) <= set(regions)
    assert len(regions) == page.evaluate("document.querySelectorAll('.scroll').length")


def test_documents_are_shown_as_text(show):
    page = show("report")
    body = page.inner_text("body")
    for part in (*sample_pages.HOSTILE, *sample_pages.FOREIGN, "مقالة", "<b>.html"):
        assert part in body, part
    assert page.evaluate("document.querySelectorAll('main script, main img, main b').length") == 0
    assert page.title().startswith("Called: ")
    page = show("demo")
    assert "<b>of olives</b>" in page.inner_text("main")
    assert "اكتب عن حصاد الزيتون" in page.inner_text("main")
    ways = "[...document.querySelectorAll('blockquote')].map(e => getComputedStyle(e).direction)"
    assert page.evaluate(ways) == ["ltr", "rtl"]


def test_print_is_light_and_whole(show):
    page = show("report", "dark", opened_details=False)
    hidden = (
        "[...document.querySelectorAll('details p, details td')].filter(e => !e.checkVisibility())"
    )
    assert page.evaluate(f"{hidden}.length") > 0
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.skip')).display") == "none"
    assert page.evaluate(f"{hidden}.length") == 0
