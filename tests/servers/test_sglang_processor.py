"""Our logit processor in SGLang's engine on the CPU (`make sglang`); see test_sglang_engine.py.

A file of its own: an engine that shuts down ends all processes of its test run, other engines' too.
"""

import pytest
import smollm2
from sglang_reference import (
    ENGINE,
    LENGTH,
    NOISE,
    PROMPTS,
    SETTINGS,
    N,
    ask,
    found,
    mark,
    reference,
)

from wmcore.bindings import sglang as binding

__all__ = ["mark", "reference"]  # fixtures
pytestmark = pytest.mark.sglang


def test_the_processor(mark, reference):
    import sglang

    made = sglang.Engine(
        model_path=str(smollm2.folder()), enable_custom_logit_processor=True, **ENGINE
    )
    try:
        name = binding.WatermarkLogitProcessor.to_str()
        pairs = [(prompt, one) for prompt in PROMPTS[1:] for one in SETTINGS]
        asked = [
            one | {"custom_params": {"wmcore_shift": 11 * i}} for i, (_, one) in enumerate(pairs)
        ]
        names = [name] * len(pairs) + [None] * 3
        answers = ask(
            made, [prompt for prompt, _ in pairs] + PROMPTS[:3], *asked, *[{}] * 3,
            custom_logit_processor=names,
        )  # fmt: skip
        wrong = [
            reference.differing(prompt, answer["output_ids"], 11 * i, **one)
            for i, ((prompt, one), answer) in enumerate(zip(pairs, answers, strict=False))
        ]
        print(f"{sum(wrong)} of {LENGTH * len(pairs)} tokens differ: {wrong}")
        assert sum(wrong) <= NOISE * LENGTH * len(pairs)
        assert min(one.p_value for one in found(mark, answers[-3:])) > 1 / 200
        with pytest.raises(ValueError, match="only requests that name"):
            ask(made, [PROMPTS[0]], {"custom_params": {"wmcore": True}})
        with pytest.raises(ValueError, match="outside 0 to 255"):
            ask(
                made, [PROMPTS[0]], {"custom_params": {"wmcore_shift": N}}, custom_logit_processor=name
            )  # fmt: skip
    finally:
        made.shutdown()
