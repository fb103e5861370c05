"""From raw rows to summaries, tables and plots, with values worked out by hand."""

import json
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow")

from wmcore.errors import WatermarkError
from wmcore.paper import plots
from wmcore.paper.labels import in_order, show, with_error
from wmcore.paper.report import (
    Figure,
    draw,
    listing,
    markdown,
    mean_cell,
    median_cell,
    number,
    read_rows,
    share_cell,
    summarise,
    table,
    write_rows,
)
from wmcore.paper.styles import SPARE, STYLES, styles
from wmcore.paper.summary import median_interval, share


def row(text, p, **columns):
    """A raw row."""
    return {
        "model": "tiny",
        "prompts": "news",
        "method": "exp",
        "test": "exp",
        "options": "{}",
        "temperature": 1.0,
        "top_p": 1.0,
        "key_length": 256,
        "cut": 35,
        "attack": "none",
        "rate": 0.0,
        "text": text,
        "tokens": 35,
        "written": 40,
        "p": p,
        "resamples": 999,
        "entropy": 2.0,
        "potential": 0.5,
        "nll": 2.0,
        **columns,
    }


# Summaries


def test_a_summary_by_hand():
    p = [0.001, 0.009, 0.01, 0.02, 0.3, 0.5, math.nan]
    rows = [row(i, one) for i, one in enumerate(p)]
    rows[0] |= {"tokens": 105, "entropy": 4.0, "potential": math.nan}
    (found,) = summarise(rows, ["method", "cut"])
    assert found == {
        "method": "exp",
        "cut": 35,
        "n": 7,
        "failed": 1,
        "shorter": 0,
        "resamples": 999,
        "median_p": 0.02,
        "quartiles": [pytest.approx(0.0095), 0.4],  # between 0.009 and 0.01; 0.3 and 0.5
        "median_interval": [0.001, 1.0],  # P(Bin(7, 1/2) = 0) = 0.8 %, <= 1: 6 %
        "0.01": [0.4286, pytest.approx(math.sqrt(3.5 / 8 * 4.5 / 8 / 7), abs=5e-5)],
        "1e-4": None,
        "tokens": 35.0,
        "all_tokens": 315,
        "entropy": pytest.approx((105 * 4 + 210 * 2) / 315),
        "potential": 0.5,
    }


def test_a_level_is_reachable_from_the_resamples_that_give_it():
    for resamples, reachable in ((9998, False), (9999, True)):
        (found,) = summarise([row(0, 0.5, resamples=resamples)], [])
        assert (found["1e-4"] is not None) is reachable
    mixed = [row(0, 1e-4, resamples=9999), row(1, 0.5, resamples=10)]
    assert summarise(mixed, [])[0]["1e-4"][0] == 0.5


def test_groups_come_in_the_order_of_their_values_and_whole_texts_last():
    rows = [row(0, 0.1, cut=cut, test=test) for cut in (None, 80, 3) for test in ("its", "exp")]
    found = [(one["test"], one["cut"]) for one in summarise(rows, ["test", "cut"])]
    assert found == [(test, cut) for test in ("exp", "its") for cut in (3, 80, None)]
    assert summarise([], ["test"]) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["exp", "its"]),
            st.sampled_from([3, 35, None]),
            st.one_of(st.just(math.nan), st.floats(0.001, 1)),
            st.integers(0, 80),
            st.floats(0, 10),
        ),
        min_size=1,
        max_size=30,
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_summaries_do_not_depend_on_the_order_of_rows(drawn, shuffler):
    rows = [
        row(i, p, method=method, cut=cut, tokens=tokens, entropy=entropy)
        for i, (method, cut, p, tokens, entropy) in enumerate(drawn)
    ]
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert summarise(rows, ["method", "cut"]) == summarise(shuffled, ["method", "cut"])


def test_texts_without_tokens_or_entropy_have_no_mean():
    rows = [row(0, math.nan, tokens=0), row(1, 0.5, entropy=math.nan)]
    (found,) = summarise(rows, [])
    assert found["entropy"] is None
    assert found["potential"] == 0.5


def test_a_text_may_not_come_twice_in_a_group():
    rows = [row(0, 0.1), row(1, 0.1), row(1, 0.2, options='{"gap": 0.4}', rate=0.1)]
    with pytest.raises(ValueError, match=r"text 1 of 'news' .* \['options', 'rate', 'p'\]"):
        summarise(rows, ["method"])
    assert len(summarise(rows, ["method", "options"])) == 2


def test_shares_have_an_error_even_at_the_ends():
    assert share(np.zeros(100, bool)) == [0.0, 0.007]  # sqrt(0.00495 * 0.99505 / 100)
    assert share(np.ones(100, bool)) == [1.0, 0.007]


def test_median_interval_takes_the_ranks_of_tables():
    values = np.arange(1, 101) / 100
    assert median_interval(values, 0.001) == [
        0.4,
        0.61,
    ]  # ranks 40 and 61, as in tables for n = 100
    assert median_interval(values[:6], 0.001) == [0.01, 0.06]  # 2 / 64 outside
    assert median_interval(values[:5], 0.001) == [0.001, 1.0]  # 2 / 32 outside is too often


def test_median_interval_covers():
    """At least 95 % of 4,000 samples of 25 uniform numbers: less than 93.6 % has probability 3e-5 at exactly 95 %."""
    samples = np.sort(np.random.default_rng(1).random((4000, 25)), axis=1)
    found = [median_interval(one, 0.001) for one in samples]
    assert np.mean([low <= 0.5 <= high for low, high in found]) > 0.936


# Numbers and names


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.001, "0.0010"),
        (0.42, "0.42"),
        (0.0999, "0.10"),
        (1.0, "1.0"),
        (35.0, "35"),
        (123.4, "123"),
        (1e-4, "0.00010"),
        (9.996e-5, "0.00010"),
        (3.21e-5, "3.2e-5"),
        (0, "0"),
        (-0.0123, "-0.012"),
    ],
)
def test_numbers_are_plain(value, shown):
    assert number(value) == shown


def test_a_share_has_as_many_decimals_as_show_its_error():
    assert with_error(0.82, 0.031) == "0.82 ± 0.03"
    assert with_error(1.0, 0.0035) == "1.000 ± 0.004"
    assert with_error(0.5, 0.0096) == "0.50 ± 0.01"
    assert with_error(0.5, 0.0) == "0.50 ± 0.00"


def test_names_say_what_is_shown_and_in_which_order():
    names = {"its": "ITS", ("exp", 0.7): "cold", None: "whole", "": ""}
    assert show(("its", 0.7, None), names) == "ITS, 0.7, whole"
    assert show(("exp", 0.7), names) == "cold"
    assert (show(None, {}), show(1.0, {}), show(35, {})) == ("all", "1", "35")
    found = [("kgw", 1), ("exp", 0.7), ("its", 1), ("kgw", 1)]
    assert in_order(found, names) == [("exp", 0.7), ("its", 1), ("kgw", 1)]
    assert in_order(found, {}) == found[:3]


# Tables


def many():
    """Summaries of two methods at two lengths, and of one at a third."""
    rows = [
        row(i, (i + 1) / 1000, method=method, cut=cut, tokens=cut, entropy=entropy)
        for method, cut, entropy in (
            ("exp", 5, 2.0),
            ("exp", 20, 3.0),
            ("its", 5, 2.5),
            ("its", 20, 2.5),
            ("its", 40, 2.5),
        )
        for i in range(21)
    ]
    rows[0]["p"] = math.nan
    return summarise(rows, ["method", "cut"])


def test_a_table_by_hand():
    names = {"its": "its|free", "cut": "tokens", "method": "written"}
    text = table(many(), ["method"], "cut", median_cell, "Median p (quartiles)", names, texts=True)
    lines = text.splitlines()
    assert lines[:2] == [
        "| written | 5 | 20 | 40 | nats a token | potential |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    usual = "0.011 (0.0060–0.016)"  # of 0.001 ... 0.021
    assert lines[2] == rf"| its\|free | {usual} | {usual} | {usual} | 2.5 | 0.50 |"
    # Of 0.002 ... 0.021 and 1; (5 * 2 + 20 * 3) / 25 nats.
    assert lines[3] == f"| exp | 0.012 (0.0070–0.017) | {usual} |  | 2.8 | 0.50 |"
    assert lines[4:] == [
        "",
        "Median p (quartiles); across: tokens. n = 21 texts, T = 999 resamples; "
        "1 of 105 tests could not be made (too short a text, or a token that the watermark does not know), "
        "and count as p = 1.",
    ]


def test_shares_in_a_table_and_what_cannot_be_reached():
    text = table(many(), ["method"], "cut", share_cell("0.01"), "p ≤ 0.01", {})
    assert "| its | 0.48 ± 0.11 | 0.48 ± 0.11 | 0.48 ± 0.11 |" in text.splitlines()
    assert "| its | – | – | – |" in table(many(), ["method"], "cut", share_cell("1e-4"), "", {})


def test_a_listing_has_a_row_for_each_summary():
    cells = {"p ≤ 0.01": share_cell("0.01"), "tokens": mean_cell("tokens")}
    found = many()
    found[-1] |= {"n": 25, "resamples": 9999}
    lines = listing(found, ["method", "cut"], cells, "All", {"its": "ITS"}).splitlines()
    assert lines[0] == "| method | cut | p ≤ 0.01 | tokens |"
    assert lines[1] == "| --- | --- | ---: | ---: |"
    assert lines[2] == "| ITS | 5 | 0.48 ± 0.11 | 5.0 |"
    assert len(lines) == 2 + 5 + 2
    assert "n = 21–25 texts, T = 999–9,999 resamples" in lines[-1]


def test_tables_refuse_two_summaries_in_one_cell():
    with pytest.raises(ValueError, match=r"\['cut'\] do not tell all summaries apart"):
        table(many(), [], "cut", median_cell, "", {})
    with pytest.raises(ValueError, match=r"\['method'\] do not tell all summaries apart"):
        listing(many(), ["method"], {}, "", {})


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2))
def test_no_text_breaks_a_table(cells):
    lines = markdown(["a", "b"], [cells], 1).split("\n")
    assert len(lines) == 4
    assert lines[2].replace(r"\|", "").count("|") == 3


# Plots


def figure(**changes):
    names = {"news": "News, T = 1", "exp": "exp", "its": "its & <free>"}
    return Figure(
        **{
            "x": "cut",
            "x_label": "tokens",
            "series": ("method",),
            "panels": ("prompts",),
            "names": names,
            **changes,
        }
    )


def points(**columns):
    return [{**one, "prompts": prompts, **columns} for prompts in ("news", "x") for one in many()]


def texts_of(svg):
    """What is written in an SVG."""
    return {"".join(node.itertext()) for node in ET.parse(svg).iter() if node.tag.endswith("text")}


def test_a_plot_is_a_png_and_an_svg_with_its_words(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    png, svg = draw(points(), figure(), tmp_path / "exp1.length")
    assert (png.name, svg.name) == ("exp1.length.png", "exp1.length.svg")
    with image.open(png) as read:
        read.load()
        assert read.width > 2 * read.height > 600
        assert len(read.convert("RGB").getcolors()) > 8
    assert max(png.stat().st_size, svg.stat().st_size) < 100_000
    assert texts_of(svg) >= {
        *("News, T = 1", "x", "tokens", "exp", "its & <free>", "median p, with quartiles"),
        *("p = 0.01", "smallest possible p", "0.001", "0.1", "1", "20"),
    }
    _, svg = draw(many(), figure(y="0.01", log_x=True, panels=()), tmp_path / "share")
    found = texts_of(svg)
    assert found >= {"share with p ≤ 0.01, ± standard error", "5", "20", "40", "0.4"}
    assert "p = 0.01" not in found


def test_points_and_whiskers_lie_where_their_numbers_say(tmp_path, monkeypatch):
    """Drawn at their x and y before each series is moved by its points; share and error by hand."""
    pytest.importorskip("matplotlib")
    kept = []
    monkeypatch.setattr(plots, "save", lambda canvas, stem: kept.append(canvas))
    draw(many(), figure(panels=(), y="0.01"), tmp_path / "x")
    whiskers, line = kept[0].axes[0].lines[:2]
    assert line.get_xydata().tolist() == [[5, round(9 / 21, 4)], [20, round(10 / 21, 4)]]
    low, high = whiskers.get_xydata()[:2].tolist()
    error = math.sqrt(9.5 / 22 * 12.5 / 22 / 21)
    assert low == [5, pytest.approx(9 / 21 - error, abs=1e-4)]
    assert high == [5, pytest.approx(9 / 21 + error, abs=1e-4)]
    draw(many(), figure(panels=()), tmp_path / "x")
    whiskers, line = kept[1].axes[0].lines[2:4]
    assert line.get_xydata()[2].tolist() == [40, pytest.approx(0.011)]
    assert whiskers.get_xydata()[6:8, 1].tolist() == pytest.approx([0.006, 0.016])


def test_words_on_the_x_axis_stand_beside_each_other(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    kept = []
    monkeypatch.setattr(plots, "save", lambda canvas, stem: kept.append(canvas))
    attacks = {5: "none", 20: "French", 40: None}
    found = [{**one, "attack": attacks[one["cut"]]} for one in many()]
    names = {"none": "untouched", "French": "by way of French"}
    draw(found, figure(x="attack", panels=(), names=names), tmp_path / "x")
    axis = kept[0].axes[0]
    words = [label.get_text() for label in axis.get_xticklabels()]
    assert words == ["untouched", "by way of French", "all"]
    assert [line.get_linestyle() for line in axis.lines[1:4:2]] == ["None", "None"]


def test_the_same_summaries_give_the_same_bytes_whatever_the_settings(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    first = [path.read_bytes() for path in draw(points(), figure(), tmp_path / "a")]
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path"}):
        again = [path.read_bytes() for path in draw(points(), figure(), tmp_path / "b")]
        assert matplotlib.rcParams["font.size"] == 20
    assert first == again
    code = (
        "import sys, json, pathlib; from wmcore.paper.report import Figure, draw;"
        "points, figure = json.loads(sys.stdin.read());"
        "draw(points, Figure(**figure), pathlib.Path(sys.argv[1]));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "c")],
        input=json.dumps([points(), vars(figure())]),
        text=True,
        check=True,
    )
    assert [(tmp_path / f"c{end}").read_bytes() for end in (".png", ".svg")] == first


def test_plots_refuse_nothing_and_two_points_in_one_place(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="none has '1e-4'"):
        draw(many(), figure(y="1e-4", panels=()), tmp_path / "x")
    with pytest.raises(ValueError, match=r"two of series .* are at one cut"):
        draw(many() + many(), figure(panels=()), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_scheme_looks_the_same_everywhere_and_no_two_alike():
    look = {
        (one["color"], one["marker"]): name for (name,), one in styles((n,) for n in STYLES).items()
    }
    assert len(look) == len({marker for _, marker in look}) == len(STYLES)
    pairs = [("exp", "exp-edit"), ("exp", "exp"), ("human", "exp"), ("kgw-1", "kgw"), ("mine", "z")]
    found = styles(pairs)
    drawn = {pair: (one["color"], one["marker"]) for pair, one in found.items()}
    assert [drawn[pair] for pair in pairs[:4]] == [
        STYLES[name] for name in ("exp-edit", "exp", "human", "kgw-1")
    ]
    assert drawn["mine", "z"] == SPARE[0]
    warm, cold = styles([("exp", 1.0), ("exp", 0.7)]).values()
    assert warm["color"] == cold["color"]
    assert warm["linestyle"] != cold["linestyle"]
    assert cold["markerfacecolor"] == "white"
    assert len(styles((i,) for i in range(30))) == 30


# Rows in files


def test_rows_come_back_from_their_file_as_they_were(tmp_path):
    rows = [row(0, 0.001), row(1, math.nan, cut=None), row(2**40, 1.0, method="späße")]
    path = tmp_path / "new" / "rows.parquet"
    write_rows(path, iter(rows))
    found = read_rows(path)
    assert repr(found) == repr(rows)  # NaN, and 1 apart from 1.0
    write_rows(path, [])
    assert read_rows(path) == []
    assert os.listdir(path.parent) == ["rows.parquet"]


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({k: v for k, v in row(0, 0.1).items() if k != "rate"}, r"\['rate'\]"),
        (row(0, 0.1, extra=1), r"\['extra'\]"),
        (row(None, None), r"\['p', 'text'\] are None"),
    ],
)
def test_rows_have_all_columns_and_no_others(tmp_path, broken, told):
    with pytest.raises(ValueError, match=told):
        write_rows(tmp_path / "rows.parquet", [row(0, 0.1), broken])
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    write_rows(path, [row(0, 0.5)])

    def half(table, where, **_):
        where.write_bytes(b"PAR1 and then")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(KeyboardInterrupt):
        write_rows(path, [row(1, 0.5)])
    assert read_rows(path) == [row(0, 0.5)]
    assert os.listdir(tmp_path) == ["rows.parquet"]


def test_a_killed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "rows.parquet"
    write_rows(path, [row(0, 0.5)])
    code = (
        "import os, sys, json, pathlib; import pyarrow.parquet as pq; write = pq.write_table\n"
        "def killed(table, where, **options):\n"
        "    write(table, where, **options); os.kill(os.getpid(), 9)\n"
        "pq.write_table = killed\n"
        "from wmcore.paper.report import write_rows\n"
        "write_rows(pathlib.Path(sys.argv[1]), json.loads(sys.stdin.read()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], input=json.dumps([row(1, 0.5)]), text=True
    )
    assert done.returncode == -9
    assert read_rows(path) == [row(0, 0.5)]
    write_rows(path, [row(2, 0.5)])
    assert read_rows(path) == [row(2, 0.5)]


def test_what_is_no_file_of_rows_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    with pytest.raises(WatermarkError, match="cannot be read"):
        read_rows(path)
    write_rows(path, [row(i, 0.5) for i in range(100)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WatermarkError, match="cannot be read"):
        read_rows(path)
    pq.write_table(pa.table({"p": [0.5]}), path)
    with pytest.raises(WatermarkError, match=r"columns \['p'\]"):
        read_rows(path)
