"""Texts given to a detector: good ones of every kind get the same result, bad ones an error of their own."""

from commands import V
from hypothesis import strategies as st

from fuzz.budget import inputs
from fuzz.holds import is_plain, only_refusals, refused
from fuzz.marks import HEX, OPTIONS, alone, detectors
from fuzz.values import bad_texts, dressed, good_texts, numbers
from wmcore.prefix import prefix_curve


@st.composite
def batches(draw):
    """A batch: (what it is, the text, its token ids or None where it is bad) of each text."""
    made = []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            ids = draw(good_texts(V))
            made.append(("good", draw(dressed(ids)), tuple(ids)))
        else:
            made.append((*draw(bad_texts(V)), None))
    return made


@inputs(0.16, of=detectors(), batch=batches())
def test_a_bad_text_never_costs_a_good_one(of, batch):
    found = of.detect([text for _, text, _ in batch], **OPTIONS)
    assert len(found) == len(batch)
    for result, (what, _, ids) in zip(found, batch, strict=True):
        if ids is None:
            assert result.p_value is None, what
            is_plain(result.error, HEX)
        else:
            assert result == alone(of, ids), what


@inputs(0.01, of=detectors(), one=st.data())
def test_one_text_in_place_of_a_list_is_refused(of, one):
    text = one.draw(dressed(one.draw(good_texts(V))))
    try:
        found = of.detect(text, **OPTIONS)
    except TypeError as error:
        is_plain(str(error), HEX)
    else:  # a list of tensors is a list of texts, though of bad ones
        assert all(result.p_value is None for result in found)


@inputs(0.01, of=detectors(), bad=bad_texts(V))
def test_anything_in_place_of_a_list(of, bad):
    """Results with errors, or a refusal; a list of lists is a batch."""
    what, text = bad
    with only_refusals(HEX):
        for result in of.detect(text, **OPTIONS):
            assert (result.p_value is None) != (result.error is None), what
            if result.error is not None:
                is_plain(result.error, HEX)


OPTION_NAMES = ["resamples", "stop_after", "seed"]


@inputs(0.03, of=detectors(), name=st.sampled_from(OPTION_NAMES), value=numbers())
def test_options_of_detect(of, name, value):
    if name == "resamples" and isinstance(value, int) and value > 1000:
        value = 1000 + value % 1000  # a test of so many resamples is right, and long
    options = {**OPTIONS, name: value}
    with only_refusals(HEX):
        (found,) = of.detect([[1, 2, 3, 4, 5]], **options)
        assert 0 < found.p_value <= 1
        assert type(found.resamples) is int


@inputs(0.01, of=detectors(), bad=bad_texts(V), value=numbers())
def test_prefix_curve(of, bad, value):
    refused(lambda: prefix_curve(of, bad[1], seed=1, resamples=9), HEX)
    with only_refusals(HEX):
        prefix_curve(of, [1, 2, 3, 4, 5], resamples=9, seed=value)
