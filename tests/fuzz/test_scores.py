"""Files of learnt scores that are damaged or hostile: they are refused in one sentence, or they work."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from fuzz.budget import inputs
from fuzz.holds import is_plain, only_refusals
from fuzz.marks import HEX, OPTIONS, mark, scores
from fuzz.mutations import altered, damaged
from wmcore import Detector
from wmcore.learned_scores import LearnedScores, ProxyScores

TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scores")


def _scores():
    """The bytes of a file of scores of each kind."""
    files = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scores.json")
        for kind in ("tokens", "proxy"):
            scores(kind).save(path)
            files.append(path.read_bytes())
    return files


SCORES = _scores()


def scores_answer(path):
    """A file of scores, if it is one, gives p-values or refusals."""
    with only_refusals(HEX):
        found = LearnedScores.load(path)
        is_plain(repr(found))
        proxy = np.float64 if isinstance(found, ProxyScores) else None
        tested = Detector(mark("exp"), score=found, proxy=proxy, threads=1)
        (one,) = tested.detect([TEXT], **OPTIONS)
        assert (one.p_value is None) != (one.error is None)
        found.save(path)
        assert LearnedScores.load(path).name == found.name


@inputs(0.02, data=damaged(SCORES))
def test_damaged_scores(folder, data):
    (folder / "scores.json").write_bytes(data)
    scores_answer(folder / "scores.json")


@inputs(0.02, document=st.sampled_from([json.loads(data) for data in SCORES]).flatmap(altered))
def test_altered_scores(folder, document):
    (folder / "scores.json").write_text(json.dumps(document))
    scores_answer(folder / "scores.json")
