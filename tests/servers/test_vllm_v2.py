"""Model Runner V2, on the CPU through Triton's interpreter (`make vllm`): our watermark, and vLLM's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wmcore import Watermark
from wmcore.bindings import _serving
from wmcore.bindings import vllm as binding

pytestmark = pytest.mark.vllm


def written(folder, kind, **environment):
    """What `vllm_v2.py` prints."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "WMCORE_"))}
    script = Path(__file__).with_name("vllm_v2.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), kind],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_tokens_are_the_keys(folder, tmp_path):
    import vllm_v2
    from vllm_reference import Reference, Request

    mark = Watermark.create(vocab_size=49152)
    mark.save(tmp_path / "mark.json")
    got = written(folder, "ours", **{binding.ENVIRONMENT: str(tmp_path / "mark.json")})
    reference, first_row = Reference(folder), _serving.Service(mark, "tests").first_row
    for how, output in zip(vllm_v2.OURS, got["tokens"], strict=True):
        extra = how.get("extra_args", {})
        shift = first_row(_serving.Wish.read(extra), how.get("seed"), None)
        request = Request(**{k: v for k, v in how.items() if k not in ("seed", "extra_args")})
        wrong = reference.differing(mark, shift, got["prompt"], output, request)
        assert len(wrong) > 2 if extra.get("wmcore") is False else not wrong, how


def test_vllms_own_watermark_is_found_by_our_detector(folder):
    import vllm_v2

    got = written(folder, "native")
    (found,) = binding.GumbelDetector(vllm_v2.KEY).detect(got["tokens"])
    print(f"ours {found.score} {found.p_value}, theirs {got['score']} {got['p_value']}")
    assert found.p_value < 1e-6
    assert found.score == pytest.approx(got["score"], rel=1e-12)
    assert found.p_value == pytest.approx(got["p_value"], rel=1e-9)
