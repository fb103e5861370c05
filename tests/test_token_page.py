"""The page: escaped, self-contained, coloured by rarity, with a verdict; the demo's helpers."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import sample_pages

from wmcore import token_page
from wmcore.cli import demo
from wmcore.detection import Detection
from wmcore.pages import format_p
from wmcore.schemes import SCHEMES


class Letters:
    """A tokenizer of one byte a token."""

    def decode(self, tokens):
        return bytes(tokens).decode("utf-8", errors="replace")


def detection(tokens, rows, costs, p_value=0.001, error=None):
    alignment = SimpleNamespace(
        positions=np.array(tokens), rows=np.array(rows), costs=np.array(costs, dtype=float)
    )
    numbers = {
        "statistic": 1.0,
        "shift": 0,
        "block": 0,
        "resamples": 0,
        "hits": 0,
        "backend": "cpu",
    }
    return Detection(
        p_value, length=30, method="bound", error=error, alignment=alignment, **numbers
    )


def page_of(text: bytes, found=None) -> str:
    if found is None:
        found = detection(range(len(text)), range(len(text)), [-1.0] * len(text))
    shown = token_page.passage("watermarked", "exp", Letters(), list(text), found)
    section = token_page.Section(
        "exp <&>", "sum & total", [token_page.Example("<b>name", [shown], "<b>prompt</b>")]
    )
    return token_page.render("Title <script>", [section])


def shown_text(page: str) -> str:
    """The coloured text as it is read."""
    (inside,) = re.findall(r'<div class="text card" dir="auto">(.*?)</div>', page, re.DOTALL)
    return html.unescape(re.sub("<[^>]*>", "", inside))


def test_everything_is_escaped():
    page = page_of(b"<script>alert('x')</script> &amp; \"q\"")
    assert "<script>" not in page
    assert "<b>" not in page
    assert "exp &lt;&amp;&gt;" in page
    assert shown_text(page).startswith("<script>alert('x')</script> &amp; \"q\"")


def test_page_is_self_contained_and_well_formed():
    class Checker(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attributes):
            assert not {"src", "onclick", "title"} & {name for name, _ in attributes}
            assert dict(attributes).get("href", "#").startswith("#")
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    page = page_of(b"some text")
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert "//" not in page
    assert "@import" not in page


@pytest.mark.parametrize("scheme", ["exp", "exp-edit", "its", "its-edit"])
def test_chance_of_fit_is_uniform_for_independent_keys(scheme):
    # 20,000 draws: the share below a has standard error at most 0.0036, so 0.018 is 5 of them.
    rng = np.random.default_rng(3)
    u, eta = rng.random(20_000), rng.random(20_000)
    costs = np.log1p(-u) if SCHEMES[scheme].sampler == "exp" else abs(u - eta)
    chances = np.array([token_page.chance_of_fit(scheme, c) for c in costs])
    for a in (0.01, 0.1, 0.5, 0.9):
        assert abs((chances <= a).mean() - a) < 0.018


def test_chance_of_fit_at_the_ends():
    assert token_page.chance_of_fit("exp", 0.0) == 1.0
    assert token_page.chance_of_fit("exp", -800.0) == 0.0
    assert token_page.chance_of_fit("its", 0.0) == 0.0
    assert token_page.chance_of_fit("its", 1.0) == 1.0


def test_levels_gaps_and_jumps():
    found = detection([0, 1, 2, 3, 4], [7, 8, -1, 11, 0], [0.0, -1.0, 0.0, -9.0, -20.0])
    shown = token_page.passage("t", "exp-edit", Letters(), list(b"a cdef"), found)
    pieces = shown.pieces
    assert [p.text for p in pieces] == ["a", "", "c", "d", "e", "f"]
    assert [p.space for p in pieces] == ["", " ", "", "", "", ""]
    assert [p.level for p in pieces] == [0, 1, None, 6, 6, None]
    # row 0 after row 11 is the end of the key, not a jump
    assert [p.jump for p in pieces] == [False, False, False, True, False, False]
    assert [(fit.position, fit.row, fit.cost) for fit in shown.best] == [
        (4, 0, -20.0),
        (3, 11, -9.0),
        (1, 8, -1.0),
        (0, 7, 0.0),
    ]
    assert round(shown.best[1].rarity) == 8103
    assert shown.best[-1].rarity == 1.0


def test_tokens_that_fit_best_are_in_a_table():
    """What a tooltip would say can be read without one."""
    costs = [-0.5 * i for i in range(25)]
    page = page_of(b"abcdefghijklmnopqrstuvwxy", detection(range(25), range(25), costs))
    words = re.findall(r'<tr><th scope="row"><bdi>(.*?)</bdi>', page)
    assert "".join(words) == "yxwvutsrqponmlkjihgf"
    assert '<td class="n">24</td><td class="n">24</td><td class="n">-12.000</td>' in page


def test_spans_are_marked():
    spans = [
        SimpleNamespace(start=1, stop=3, p_value=0.001),
        SimpleNamespace(start=4, stop=5, p_value=1e-9),
    ]
    found = detection(range(6), range(6), [-1.0] * 6)
    shown = token_page.passage("t", "exp", Letters(), list(b"a<bc>d"), found, spans)
    assert [p.inside for p in shown.pieces] == [False, True, True, False, True, False]
    page = token_page.render(
        "t", [token_page.Section("exp", "", [token_page.Example("p", [shown])])]
    )
    labels = re.findall(r'<sup>(.*?)</sup><i class="f1 in">(.*?)</i>', page)
    assert labels[-2:] == [
        ("passage 1: p = 0.001", "&lt;"),
        ("passage 2: p = 1\xa0×\xa010⁻⁹", "&gt;"),
    ]
    assert page.count('<i class="f1 in">') == 3


def test_of_a_text_in_windows_the_best_is_marked_and_the_rest_is_plain():
    found = replace(detection([2, 3], range(2), [-1.0] * 2), windows=3, window=(2, 4))
    text = list(b"a<bc>d")
    shown = token_page.passage("t", "exp", Letters(), text, found)
    page = token_page.render(
        "t", [token_page.Section("exp", "", [token_page.Example("p", [shown])])]
    )
    best = '<i class="f1 in">b</i><i class="f1 in">c</i>'
    assert f"a&lt;<sup>the best window</sup>{best}&gt;d</div>" in page
    spans = [SimpleNamespace(start=0, stop=1, p_value=0.001)]
    shown = token_page.passage("t", "exp", Letters(), text, found, spans)
    page = token_page.render(
        "t", [token_page.Section("exp", "", [token_page.Example("p", [shown])])]
    )
    located = '<sup>passage 1: p = 0.001</sup><i class="out in">a</i>&lt;'
    assert f'{located}<i class="f1">b</i><i class="f1">c</i>&gt;d</div>' in page


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (0.03, "not found"),
        (0.01, "found"),
        (1e-9, "found"),
    ],
)
def test_a_verdict_beside_each_p(p, said):
    page = page_of(b"abc", detection(range(3), range(3), [-1.0] * 3, p_value=p))
    assert re.findall(r'<span class="badge[ a-z]*">(.*?)</span>', page) == [said]
    assert "counts as found if p ≤ 0.01" in page


def test_the_demo_labels_its_p_values():
    page = re.sub(r"\s+", " ", sample_pages.demo_page())
    assert "Found, with p ≤ 0.01, in 0 of 2 plain texts, 2 of 2 marked texts" in page
    assert re.search(r">plain: p = 0\.\d+</span>.*>marked: p = 0\.001</span>.*>damaged: p = ", page)


def test_the_page_of_one_text_names_no_version():
    page = sample_pages.token_page_of_one()
    assert "<h3>" not in page
    assert page.count("<blockquote") == 0
    assert re.search(
        r'<bdi class="name">letter.txt</bdi><span class="values"><span class="p">p = ', page
    )


def test_text_without_alignment_is_shown_plain():
    failed = Detection.failed("empty text", "cpu", 0)
    shown = token_page.passage("damaged", "its", Letters(), list(b"ab"), failed)
    assert [p.level for p in shown.pieces] == [None, None]
    page = token_page.render(
        "t", [token_page.Section("its", "", [token_page.Example("p", [shown])])]
    )
    assert '<span class="badge">not tested</span> empty text' in page


@pytest.mark.parametrize("text", ["Grüße 😀 \u200b!", "😀😀", "", "ab"])
def test_characters_of_several_tokens_appear_once(text):
    tokens = list(text.encode())
    texts = token_page.token_texts(Letters(), tokens)
    assert len(texts) == len(tokens)
    assert "".join(texts) == text


def test_cut_character_is_shown_as_such():
    assert token_page.token_texts(Letters(), list("a😀".encode()[:-1])) == ["a", "", "", "\ufffd"]


def test_a_text_of_replacement_characters_is_no_single_cut_character():
    """Decoding all that came before again for each of them would take 20,000 tokens half a minute."""

    class Replaced:
        longest = 0

        def decode(self, tokens):
            self.longest = max(self.longest, len(tokens))
            return "\ufffd" * len(tokens)

    tokenizer = Replaced()
    assert "".join(token_page.token_texts(tokenizer, range(100))) == "\ufffd" * 100
    assert tokenizer.longest <= 8


def test_p_value_format():
    assert [format_p(p) for p in (None, 0.001, 0.123456, 1.0)] == [
        "–",
        "0.001",
        "0.123",
        "1",
    ]


def test_openings_are_eight_of_each_kind():
    kinds = [opening["kind"] for opening in demo.openings()]
    assert sorted(kinds) == ["instruction"] * 8 + ["news"] * 8
    assert len({opening["prompt"] for opening in demo.openings()}) == 16


def test_instructions_go_through_the_chat_template():
    class Chatty:
        chat_template = "yes"

        def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
            assert not tokenize
            assert add_generation_prompt
            return f"<user>{messages[0]['content']}<bot>"

    news, instruction = ({"kind": k, "prompt": "Do."} for k in ("news", "instruction"))
    assert demo.as_prompt(Chatty(), news) == "Do."
    assert demo.as_prompt(Chatty(), instruction) == "<user>Do.<bot>"
    assert demo.as_prompt(Letters(), instruction) == "Do."
