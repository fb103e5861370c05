"""What the pages say, their dates, and that each colour can be read on what it lies on (by WCAG's formula)."""

import html
import json
import re
from datetime import UTC, datetime
from itertools import pairwise

import pytest

pytest.importorskip("pyarrow")
import sample_pages

from wmcore.pages import format_date, p_in_words, power_of_ten
from wmcore.scan import words
from wmcore.scan.manifest import MANIFEST
from wmcore.scan.page import render

AA = 4.5
"""The least contrast of text, WCAG 2.1, criterion 1.4.3."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The output of a scan in which documents are called."""
    return sample_pages.scanned(tmp_path_factory.mktemp("found"))


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    """The output of one in which none is, though one has a small p."""
    return sample_pages.scanned(tmp_path_factory.mktemp("nothing"), every=0)


def read(page):
    """The text of a page's body, in one line."""
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", "", body)))


def badges(page):
    """What is said of each document that is listed, in order."""
    return re.findall(r'<summary><span class="badge[ a-z]*">(.*?)</span>', page)


def luminance(colour):
    """Relative luminance of #rrggbb, 0 to 1."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """Of two colours, 1 to 21."""
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def palettes(page):
    """The colours of a page by name, in light and in dark."""
    style = page[page.index("<style>") : page.index("</style>")]
    style = re.sub(r"@media print \{\s*:root \{.*?\}", "", style, flags=re.DOTALL)
    dark = r"@media screen and \(prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}"
    colour = r"--([\w-]+): (#[0-9a-f]{6})\b"
    night = " ".join(re.findall(dark, style, re.DOTALL))
    day = re.sub(dark, "", style, flags=re.DOTALL)
    light, dimmed = dict(re.findall(colour, day)), dict(re.findall(colour, night))
    assert len(light) >= 9
    assert light.keys() == dimmed.keys()  # nothing of the one is left in the other
    return light, dimmed


def test_the_formula_of_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert contrast("#595959", "#ffffff") == pytest.approx(7.0, abs=0.005)


def test_text_can_be_read_on_what_it_lies_on(found):
    for page in (render(found), sample_pages.token_page_of_one()):
        for colours in palettes(page):
            for paper in ("paper", "card"):
                for ink in ("ink", "soft", "accent", "chance"):
                    assert contrast(colours[ink], colours[paper]) >= AA, (ink, paper)
            assert contrast(colours["ink"], colours["mark"]) >= AA
            assert contrast(colours["on-accent"], colours["accent"]) >= AA


def test_colours_of_tokens_can_be_read_and_told_apart():
    page = sample_pages.token_page_of_one()
    for colours, order in zip(palettes(page), (-1, 1), strict=True):
        levels = [colours[f"f{i}"] for i in range(1, 7)]
        assert all(contrast(c, colours[f"on{i}"]) >= AA for i, c in enumerate(levels, start=1))
        steps = list(pairwise([colours["card"], *levels]))
        # Darker each time in light, brighter each time in dark, as the sentence says.
        assert all(order * (luminance(b) - luminance(a)) > 0 for a, b in steps)
        assert min(contrast(a, b) for a, b in steps) > 1.1


def test_colours_are_in_the_palettes_alone(found):
    """Or the two tests above would not see them."""
    for page in (render(found), sample_pages.token_page_of_one()):
        style = page[page.index("<style>") : page.index("</style>")]
        others = re.sub(r"--[\w-]+: #[0-9a-f]{6};", "", style)
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl|opacity", others)
        assert "color:#" not in page.replace(" ", "")


def test_a_report_says_called(found):
    page = render(found)
    said = read(page)
    assert "Called: 11 of 120 documents carry the watermark." in said
    assert "<title>Called: 11 of 120 documents carry the watermark" in page
    assert badges(page) == ["called"] * 11
    assert "If none of the 120 documents were ours, we would expect about 0.018 to match" in said
    warning = "Our key may by accident resemble this whole collection; run again with --controls 19"
    assert f"{warning} to rule that out." in said
    assert "We could test this many documents120" in said
    assert "Called: they match our key too well for chance11" in said
    assert "Not called: chance can explain how they match109" in said
    assert "Could not be tested, so nothing is said of them1" in said


def test_a_report_says_not_called(nothing):
    page = render(nothing)
    said = read(page)
    assert "Not called: none of 120 documents shows the watermark." in said
    assert badges(page) == ["not called"]
    assert "Not called, though p is small" in said
    assert "Not called, because q = 0.0121 is above 0.01" in said
    assert "If none of the 120 documents were ours, we would expect about 0.012 to match" in said
    assert "may still be ours" in said
    assert "--controls 19" not in said


def test_called_documents_are_listed_whatever_their_p(found, monkeypatch):
    """Where many are ours, documents are called with a p above that from which others are listed."""
    monkeypatch.setattr("wmcore.scan.page.LISTED", 1e-20)
    assert badges(render(found)) == ["called"] * 11
    assert badges(render(found, hits=3)) == ["called"] * 3
    assert "The 3 with the least p of 11 are listed" in read(render(found, hits=3))


def test_a_report_explains_p(found):
    said = read(render(found))
    sentence = "p = 0.03: 3 of 100 unrelated texts look this good."
    assert f"{sentence} It is not the probability that the text is ours." in said
    assert "expected by chance" not in said
    assert not re.search(r"\de-\d", said)


def test_the_token_page_uses_its_words():
    said = read(sample_pages.token_page_of_one())
    sentence = "The darker a word, the less likely its match with our key is by chance."
    assert sentence in said
    assert sentence.replace("darker", "brighter") in said  # in dark
    assert "Ordinary text also shows dark words. Judge by p, not by colour." in said
    assert "It is not the probability that the text is ours." in said


def test_a_report_dates_itself(found, tmp_path):
    before = datetime.now(UTC)
    page = render(found)
    times = re.findall(r'<time datetime="(.*?)">(.*?)</time>', page)
    assert len(times) >= 2
    for stamp, shown in times:
        when = datetime.fromisoformat(stamp)
        assert abs((when - before).total_seconds()) < 3600
        assert shown == format_date(when)
    manifest = json.loads((found / MANIFEST).read_text())
    copy = tmp_path / "out"
    copy.mkdir()
    for path in found.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    for dates, expected in [
        ({"began": "2025-01-31T23:30:00+00:00", "ended": "2025-02-01T01:00:00+01:00"}, True),
        ({"began": "soon", "ended": "9999-99"}, False),
    ]:
        (copy / MANIFEST).write_text(json.dumps({**manifest, **dates}))
        said = read(render(copy))
        scanned = (
            "Scanned from 31 January 2025, 23:30 UTC to 1 February 2025, 00:00 UTC with wmcore"
        )
        assert (scanned in said) == expected
        assert ("which noted no date" in said) != expected
    for name in ("began", "ended"):  # of a version that noted none
        del manifest[name]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    assert "which noted no date" in read(render(copy))


def test_with_controls_there_is_no_warning(tmp_path):
    said = read(sample_pages.report(tmp_path, controls=2))
    assert "2 control keys found" in said
    assert "run again with" not in said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0.0, "practically none"),
        (8.88e-233, "practically none"),
        (0.0099, "practically none"),
        (0.01, "about 0.01"),
        (0.26, "about 0.26"),
        (3.14, "about 3.1"),
        (1234.5, "about 1,234"),
    ],
)
def test_expected_numbers_in_words(number, said):
    assert words.expected(number) == said


def test_verdicts_of_few_documents():
    summary = {"tested": 1, "hits": 1}
    assert words.verdict(summary) == "Called: 1 of 1 document carries the watermark"
    assert words.verdict({"tested": 0, "hits": 0}).startswith("No verdict")
    summary = {"tested": 1, "hits": 0, "least_p": 0.5, "expected_by_chance": 0.0}
    expected = (
        "If the document were not ours, we would expect about 0.5 to match as well as the best one."
    )
    assert words.by_chance(summary, "bh") == expected
    ours = {"tested": 543, "hits": 20, "least_p": 1e-9, "expected_by_chance": 8.88e-233}
    sentence = "If none of the 543 documents were ours, we would expect practically none to match this well."
    assert words.by_chance(ours, "bh") == words.by_chance(ours, "ebh") == sentence
    assert "at most about 2" in words.by_chance({**ours, "expected_by_chance": 2.0}, "ebh")


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (0.03, "3 of 100 unrelated texts look this good"),
        (0.01, "1 of 100 unrelated texts looks this good"),
        (0.0123, "12 of 1,000 unrelated texts look this good"),
        (0.5, "50 of 100 unrelated texts look this good"),
        (0.001, "1 of 1,000 unrelated texts looks this good"),
        (1e-6, "1 of 1,000,000 unrelated texts looks this good"),
        (1.0, "every unrelated text looks this good"),
        (3e-233, "practically no unrelated text looks this good"),
    ],
)
def test_p_in_words(p, said):
    assert p_in_words(p) == said


def test_p_in_words_is_true_within_rounding():
    for i in range(1, 2100):
        p = 0.994 * 0.99**i
        found = re.match(r"([\d,]+) of ([\d,]+) ", p_in_words(p))
        if p < 1e-9:
            assert found is None
            break
        some, many = (int(part.replace(",", "")) for part in found.groups())
        assert some / many == pytest.approx(p, rel=0.06)
    assert p < 1e-9


def test_powers_of_ten():
    given = (None, 1.0, 0.05, 1.23e-9, 8.88e-233, 1.5e12)
    shown = ("–", "1", "0.05", "1.23\xa0×\xa010⁻⁹", "8.88\xa0×\xa010⁻²³³", "1.5\xa0×\xa010¹²")
    assert tuple(map(power_of_ten, given)) == shown
