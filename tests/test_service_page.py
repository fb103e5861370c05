"""The page of the service as text: what it says of each answer, what is escaped, and what its policy allows."""

import html
import re
from base64 import b64encode
from hashlib import sha256

import numpy as np
import pytest
import sample_pages

from wmcore import Detector
from wmcore.service import page
from wmcore.service.panel import Answer, Detail

SITE = page.Site(
    technique="Each word is compared with a <secret> key.",
    false_alarm="one in 1,000 texts without this watermark would fit as well.",
    threshold=1e-3,
    most_tokens=20_000,
)
SCRIPT = "<script>document.title = 'run'</script></textarea><img src=x onerror=alert(1)>"


def said(shown):
    """The text of a page's body, in one line."""
    body = re.sub("<script>.*?</script>", "", shown[shown.index("<body>") :], flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", "", body)))


def detailed(marked):
    """(text, answer) of 60 words, with all that a page can show."""
    mark, rng = sample_pages.watermark(), np.random.default_rng(7)
    tokens = sample_pages.marked(mark, rng) if marked else sample_pages.plain(rng)
    (found,) = Detector(mark).detect([tokens], seed=1, alignment=True)
    assert (found.p_value < 1e-6) == marked
    answer = Answer(
        "found" if marked else "not found",
        found.p_value,
        found.statistic,
        found.length,
        watermark="one" if marked else None,
        fingerprint=mark.fingerprint if marked else None,
        detail=Detail("exp", tokens, sample_pages.Words(), found, []),
    )
    return sample_pages.text_of(tokens), answer


def test_a_page_that_was_asked_nothing_has_a_form():
    shown = page.blank(SITE)
    assert "<title>Watermark check</title>" in shown
    assert '<form method="post" enctype="multipart/form-data">' in shown
    for name in ("text", "file"):
        assert f'<label for="{name}">' in shown
        assert f'id="{name}" name="{name}"' in shown
    assert "autofocus" not in shown
    assert 'name="token"' not in shown
    assert "Operated by" not in shown
    assert "Up to 20,000 tokens, about 15,000 English words" in said(shown)
    assert "Each word is compared with a <secret> key." in said(shown)


def test_who_answers_for_it_and_a_field_for_tokens_where_there_are_any():
    site = page.Site(
        "", "", 1e-3, 100, asks_for_token=True, operator="A & B", contact="<a@b.example>"
    )
    shown = page.blank(site)
    assert 'name="token" type="password" autocomplete="off"' in shown
    assert "Operated by A & B. Contact: <a@b.example>." in said(shown)
    assert "<a@b" not in shown


def test_found():
    text, answer = detailed(marked=True)
    shown = page.answered(SITE, text, answer)
    assert "<title>Watermark found – watermark check</title>" in shown
    assert re.search(r'<h2 id="result" tabindex="-1" autofocus>Watermark found</h2>', shown)
    words = said(shown)
    assert re.search(r"p = \d\.\d+ × 10⁻[⁰-⁹¹²³]+: practically no unrelated text", words)
    rule = "counts as found if p ≤ 0.001: one in 1,000 texts without this watermark would"
    assert rule in words.replace("\N{NO-BREAK SPACE}", " ")
    assert f"<dt>Key&#39;s fingerprint</dt><dd>{answer.fingerprint}</dd>" in shown
    assert len(re.findall(r'<i class="f[1-6]', shown)) > 40
    assert "Ordinary text also shows dark words. Judge by p, not by colour." in words
    assert "key row" not in words  # which row a word met is no stranger's business


def test_not_found():
    text, answer = detailed(marked=False)
    words = said(page.answered(SITE, text, answer))
    assert "Watermark not found" in words
    assert page.MISSED in words
    assert "It is not the probability that the text is ours." in words
    assert "fingerprint" not in words


@pytest.mark.parametrize("verdict", ["found", "not found", "too short"])
def test_a_coarse_answer_is_a_verdict_and_no_more(verdict):
    shown = page.answered(SITE, "some words", Answer(verdict))
    section = shown[shown.index('<section class="result') : shown.index('aria-labelledby="ask"')]
    assert not re.search(r"p = |<dl>|<i class|fingerprint", section)
    assert "some words</textarea>" in shown


def test_a_watermark_that_could_not_be_sought_is_no_watermark_that_was_not_found():
    shown = page.answered(
        SITE, "Tell", Answer("not found", p_value=0.4, error="watermark b: no tokenizer")
    )
    assert "Not all of our watermarks could be sought: watermark b: no tokenizer." in shown
    assert "Not all" not in page.answered(SITE, "Tell", Answer("not found", p_value=0.4))


def test_too_short():
    words = said(page.answered(SITE, "", Answer("too short", 0.5, length=1)))
    assert "It has 1 token (words or parts of words). At least 25" in words


def test_not_tested():
    shown = page.answered(SITE, "x", Answer("not tested", error="token 7 is <outside>"))
    assert "Not tested" in said(shown)
    assert "token 7 is <outside>." in said(shown)
    assert 'role="alert"' in shown


def test_p_allows_for_windows_and_watermarks():
    site = page.Site("", "", 1e-3, 100, watermarks=3)
    answer = Answer("found", 1e-5, -1.0, 9000, watermark="März <1>", fingerprint="ab", windows=70)
    words = said(page.answered(site, "", answer))
    for part in (
        "Tokens 9,000",
        "Windows tested, for which p allows 70",
        "Watermarks tested, for which p allows 3",
        "Watermark März <1>",
    ):
        assert part.replace(" ", "") in words.replace(" ", "")


@pytest.mark.parametrize("text", [SCRIPT, "\n\nstarts with lines", "a\ud800b", "العلامة 👩‍👩‍👧"])
def test_the_text_is_kept_and_is_only_text(text):
    shown = page.refused(SITE, text, "Busy", f"{SCRIPT}")
    box = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", shown, re.DOTALL)
    assert html.unescape(box[1]) == text.replace("\ud800", "\ufffd")
    assert shown.count("<script>") == shown.count("</textarea>") == 1
    assert "<img" not in shown


def test_a_script_in_the_words_is_text():
    text, answer = detailed(marked=True)
    tokens = np.concatenate([answer.detail.tokens[:56], np.arange(4)])
    assert sample_pages.text_of(tokens[-4:]).startswith("<script>")
    detail = Detail("exp", tokens, sample_pages.Words(), answer.detail.detection, [])
    shown = page.answered(SITE, text, Answer("found", 1e-9, detail=detail))
    assert "&lt;script&gt;document.title=&#39;run&#39;&lt;/script&gt;</i>" in shown
    assert shown.count("<script>") == 1


def test_the_policy_allows_the_style_and_script_of_every_page_and_nothing_else():
    policy = page.content_security_policy()
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == parts["frame-ancestors"] == parts["base-uri"] == "'none'"
    assert parts["form-action"] == "'self'"
    text, answer = detailed(marked=True)
    for shown in (page.blank(SITE), page.answered(SITE, text, answer)):
        for tag in ("style", "script"):
            (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", shown, re.DOTALL)
            digest = b64encode(sha256(inside.encode()).digest()).decode()
            assert parts[f"{tag}-src"] == f"'sha256-{digest}'"
        assert not re.search(r" style=| on\w+=|<link|src=|http-equiv|https?://", shown)
