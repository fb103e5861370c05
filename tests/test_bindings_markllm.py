"""MarkLLM's two algorithms: against its documented interface always, against a checkout where one is given."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from peers import MARKLLM, needs_markllm
from tiny import llama, words

from wmcore import Detector, WatermarkError
from wmcore.bindings import markllm as ours

VOCAB = 300
SMALL = {"pseudo_length": 48, "sequence_length": 40, "n_runs": 30}


class TransformersConfig:
    """The documented shape of MarkLLM's class."""

    def __init__(self, model, tokenizer, vocab_size=None, device="cuda", **kwargs):
        self.device = device
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size = len(tokenizer) if vocab_size is None else vocab_size
        self.gen_kwargs = dict(kwargs)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def setting():
    model = llama(VOCAB).float()
    tokenizer = words(VOCAB, begin=1)
    return TransformersConfig(model, tokenizer, device="cpu", do_sample=True, max_new_tokens=20)


@pytest.fixture
def file(tmp_path):
    def write(name, **change):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"algorithm_name": name, "key": 42, "p_threshold": 0.2, "top_k": 0,
                                    **SMALL, **change}))  # fmt: skip
        return str(path)

    return write


def test_exp_edit(setting, file):
    mark = ours.EXPEdit(file("EXPEdit"), setting)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - what MarkLLM's users set
    text = mark.generate_watermarked_text("w5 w6 w7")
    assert text.startswith("w1 w5 w6 w7 ")
    assert len(text.split()) == 44
    found = mark.detect_watermark(text)
    assert found == {"is_watermarked": True, "score": 1 / 31}
    assert mark.detect_watermark(text, return_dict=False) == (True, 1 / 31)
    plain = mark.generate_unwatermarked_text("w5 w6 w7")
    texts = [plain, text, "w9 w8 w7 w6 w5 w4 w3"]
    together = mark.detect_watermarks(texts)
    assert together[1]["is_watermarked"]
    assert together[0]["score"] > 1 / 31 or together[2]["score"] > 1 / 31
    np.random.seed(2)  # noqa: NPY002
    first = mark.detect_watermarks(texts)
    np.random.seed(2)  # noqa: NPY002
    assert mark.detect_watermarks(texts) == first
    data = mark.get_data_for_visualization(text)
    assert data.decoded_tokens == text.split()
    assert np.mean(data.highlight_values) > 0.6  # 0.45 or so by chance
    (detection,) = Detector(mark.watermark).detect([[int(w[1:]) for w in text.split()]])
    assert detection.p_value < 0.05
    torch.manual_seed(1)
    assert mark.generate_watermarked_text("w5 w6 w7") == text


def test_its_edit_finds_every_text(setting, file):
    """Also the second that it writes; and it leaves torch's global generator alone."""
    mark = ours.ITSEdit(file("ITSEdit", random_offset=True), setting)
    torch.manual_seed(1)
    for _ in range(3):
        text = mark.generate_watermarked_text("w5 w6 w7")
        torch.manual_seed(7)
        before = torch.random.get_rng_state()
        found = mark.detect_watermark(text)
        assert found["is_watermarked"]
        assert torch.equal(torch.random.get_rng_state(), before)
        assert mark.detect_watermark(text) == found  # reproducible
    assert mark.detect_watermarks([text], return_dict=False) == [(True, found["score"])]
    plain = [mark.generate_unwatermarked_text("w5 w6") for _ in range(4)]
    assert len(set(plain)) == 4
    assert np.mean([one["score"] for one in mark.detect_watermarks(plain)]) > 0.1
    assert len(mark.get_data_for_visualization(text).highlight_values) == len(text.split())
    fixed = ours.ITSEdit(file("ITSEdit"), setting)
    assert len({fixed.generate_watermarked_text("w5") for _ in range(2)}) == 1  # row 0, as theirs


def test_top_k(setting, file):
    mark = ours.EXPEdit(file("EXPEdit", top_k=1), setting)
    assert len({mark.generate_watermarked_text("w5") for _ in range(3)}) == 1  # greedy
    texts = [
        ours.ITSEdit(file("ITSEdit", top_k=k), setting).generate_watermarked_text("w5")
        for k in (0, 1)
    ]
    assert texts[0] == texts[1]  # MarkLLM's ITSEdit does not use it


def test_configurations(setting, file):
    default = ours.EXPEdit(None, setting).config
    assert (default.pseudo_length, default.n_runs, default.p_threshold) == (256, 100, 0.2)
    assert ours.ITSEditConfig(None, setting).n_runs == 500
    config = ours.EXPEditConfig(file("EXPEdit"), setting, key=7)
    assert (config.key, config.algorithm_name) == (7, "EXPEdit")
    assert ours.EXPEdit(config).config is config
    for make, message in [
        (lambda: ours.EXPEdit(file("ITSEdit"), setting), "algorithm_name is 'ITSEdit', but must be"),
        (lambda: ours.EXPEdit("nowhere.json", setting), "algorithm_config nowhere.json cannot be read"),
        (lambda: ours.EXPEdit(file("EXPEdit")), "transformers_config is None"),
    ]:  # fmt: skip
        with pytest.raises(WatermarkError, match=message):
            make()


class NoSpecials:
    """A tokenizer that adds nothing to a text, so that an empty one has no tokens."""

    def encode(self, text, add_special_tokens, **more):
        return [int(word[1:]) for word in text.split()]

    def decode(self, token, **more):
        return f"w{token}"


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
@pytest.mark.parametrize("name", ["EXPEdit", "ITSEdit"])
def test_a_text_without_tokens_is_not_watermarked(setting, file, name, text, recwarn):
    plain = TransformersConfig(setting.model, NoSpecials(), vocab_size=VOCAB, device="cpu")
    mark = getattr(ours, name)(file(name), plain)
    said = {"is_watermarked": False, "score": 1.0}
    assert mark.detect_watermark(text) == said
    assert mark.detect_watermark(text, return_dict=False) == (False, 1.0)
    some = " ".join(f"w{i}" for i in range(20))
    first, second, third = mark.detect_watermarks([some, text, some])
    assert second == said
    assert 0 <= first["score"] < 1
    assert 0 <= third["score"] < 1
    assert mark.detect_watermarks([]) == []
    assert mark.detect_watermarks([text], return_dict=False) == [(False, 1.0)]
    assert mark.get_data_for_visualization(text).decoded_tokens == []
    assert not [w for w in recwarn.list if "not tested" in str(w.message)]


@pytest.mark.parametrize("name", ["EXPEdit", "ITSEdit"])
def test_a_text_that_cannot_be_tested_does_not_end_a_batch(setting, file, name):
    plain = TransformersConfig(setting.model, NoSpecials(), vocab_size=VOCAB, device="cpu")
    mark = getattr(ours, name)(file(name), plain)
    with pytest.raises(WatermarkError, match=f"token {VOCAB} .*is outside the vocabulary"):
        mark.detect_watermark(f"w1 w{VOCAB}")
    with pytest.warns(UserWarning, match="text 1 was not tested and counts as not watermarked"):
        found = mark.detect_watermarks(["w1 w2", f"w1 w{VOCAB}", "w3 w4"], return_dict=False)
    assert found[1] == (False, 1.0)
    assert len(found) == 3


def test_answers_are_pythons_own(setting, file):
    """MarkLLM's FundamentalSuccessRateCalculator takes nothing but bool."""
    for name in ("EXPEdit", "ITSEdit"):
        said = getattr(ours, name)(file(name), setting).detect_watermark("w1 w2 w3")
        assert [type(value) for value in said.values()] == [bool, float]


def test_patch_with_an_interface_stub(setting, file):
    """What AutoWatermark does: import a module by name, take a class, construct it in one of two ways."""
    kept = dict(sys.modules)
    try:
        names = ours.patch()
        assert "markllm.watermark.its_edit" in names
        for top in ("watermark", "markllm.watermark"):
            for folder, name in (("exp_edit", "EXPEdit"), ("its_edit", "ITSEdit")):
                module = sys.modules[f"{top}.{folder}"]
                assert isinstance(module, types.ModuleType)
                config = getattr(module, f"{name}Config")(file(name), setting)
                current, older = (
                    getattr(module, name)(config),
                    getattr(module, name)(file(name), setting),
                )
                assert current.watermark == older.watermark
    finally:
        sys.modules.clear()
        sys.modules.update(kept)


# Against a checkout


@pytest.fixture(scope="module")
def theirs():
    pyximport = pytest.importorskip("pyximport", reason="MarkLLM needs Cython")
    pyximport.install(setup_args={"include_dirs": np.get_include()}, language_level=3)
    sys.path.insert(0, str(MARKLLM))
    import watermark.exp_edit.exp_edit as exp_edit
    import watermark.its_edit.its_edit as its_edit

    yield types.SimpleNamespace(EXPEdit=exp_edit.EXPEdit, ITSEdit=its_edit.ITSEdit)
    sys.path.remove(str(MARKLLM))


@needs_markllm
def test_exp_edit_is_theirs(theirs, setting, file, capsys):
    path = file("EXPEdit")
    there, here = theirs.EXPEdit(path, setting), ours.EXPEdit(path, setting)
    assert torch.equal(there.utils.xi, torch.from_numpy(here.watermark.key.exp_table(48, VOCAB)))
    for top_k in (0, 5):
        there.config.top_k = here.config.top_k = top_k
        texts = []
        for mark in (there, here):
            torch.manual_seed(3)
            texts.append(mark.generate_watermarked_text("w5 w6 w7"))
        assert texts[0] == texts[1]
        for finder in (there, here) if top_k == 0 else ():
            assert finder.detect_watermark(texts[0])["score"] <= 2 / 31
    tokens = np.array([int(w[1:]) for w in texts[0].split()])
    (found,) = here.detector.detect([tokens], resamples=1)
    value, shift = there.utils.one_run(tokens, there.utils.xi.numpy())
    assert found.statistic == pytest.approx(value, abs=len(tokens) / 2**12)
    assert found.shift == shift
    shown = [mark.get_data_for_visualization(texts[0]).highlight_values for mark in (there, here)]
    assert np.array(shown[0]) == pytest.approx(np.array(shown[1]), abs=1e-3)
    capsys.readouterr()


@needs_markllm
def test_its_edit_is_theirs_to_the_digit(theirs, setting, file):
    path = file("ITSEdit", top_k=2)  # which theirs ignores
    there, here = theirs.ITSEdit(path, setting), ours.ITSEdit(path, setting)
    text = there.generate_watermarked_text("w5 w6 w7")  # the first after construction
    assert here.generate_watermarked_text("w5 w6 w7") == text
    second = there.generate_watermarked_text("w5 w6 w7")
    plain = " ".join(f"w{i}" for i in np.random.default_rng(1).integers(3, VOCAB, 15))
    for some in (text, second, plain):
        assert here.detect_watermark(some) == there.detect_watermark(some)
    assert here.detect_watermark(text)["is_watermarked"]
    assert not here.detect_watermark(second)["is_watermarked"]  # their fault, as ours sees it


@needs_markllm
def test_auto_watermark_of_a_checkout(setting, file):
    """In a process of its own, with no Cython: AutoWatermark.load gives ours, for both algorithms."""
    code = f"""
import sys
sys.path[:0] = [{str(MARKLLM)!r}]
from wmcore.bindings.markllm import patch, EXPEdit, ITSEdit
patch()
from watermark.auto_watermark import AutoWatermark
from utils.transformers_config import TransformersConfig
class Tokenizer:
    def __len__(self): return 300
setting = TransformersConfig(None, Tokenizer(), device="cpu")
for name, path, kind in (("EXPEdit", {file("EXPEdit")!r}, EXPEdit), ("ITSEdit", {file("ITSEdit")!r}, ITSEdit)):
    mark = AutoWatermark.load(name, algorithm_config=path, transformers_config=setting)
    assert type(mark) is kind and mark.config.pseudo_length == 48
print("ours")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "ours\n", done.stderr
