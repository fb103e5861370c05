"""Every architecture gives, batched and with its cache, the text of the model alone without cache or padding."""

import inspect

import architectures
import pytest
import tiny
import torch
from architectures import APART, PADDED, REFUSED, VOCAB
from transformers import GenerationMixin

from wmcore import sampling, stepping
from wmcore.errors import WatermarkError
from wmcore.generation import generate
from wmcore.key import Key
from wmcore.watermark import Watermark

PROMPTS = [[5, 6, 7], [9], [*range(10, 21)], [20, 21], [7, 8, 9], [3, 4, 3, 4, 5]]
STEPS = 20

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def watermark_of(vocab_size=VOCAB):
    return Watermark.create("exp", vocab_size=vocab_size, key_length=64, key=Key(bytes([1] * 32)))


class Wrapper(torch.nn.Module):
    """Shows nothing of what the model inside takes, as PEFT's models do."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, input_ids, **kwargs):
        return self.model(input_ids, **kwargs)


def plain_text(model, prompt, shift, steps=STEPS):
    """The text of one prompt and its logits [steps, V]: all of it is read again for each token."""
    draw, ids, all_logits = sampling.watermarked(watermark_of()), list(prompt), []
    with torch.inference_mode():
        for i in range(steps):
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1]
            all_logits.append(logits[0])
            ids.append(int(draw(logits, torch.tensor([(shift + i) % 64]), 1.0)))
    return ids[len(prompt) :], torch.stack(all_logits)


def check(model, alone=None):
    """generate's tokens and the stepper's logits against `plain_text`. Rounding moves logits by about 1e-4."""
    alone = alone or model
    prompts = [p for p in PROMPTS if len(p) >= stepping.shortest_prompt(model)]
    shifts = list(range(0, 60, 10))[: len(prompts)]
    made = generate(model, prompts, watermark_of(), max_new_tokens=STEPS, shifts=shifts, eos=False)
    expected = [plain_text(alone, p, s) for p, s in zip(prompts, shifts, strict=True)]
    assert [one.tokens for one in made] == [tokens for tokens, _ in expected]
    padded = stepping.may_pad(model)
    for batch in stepping.batches([len(p) for p in prompts], 4, padded):
        stepper = stepping.Stepper(model, [prompts[b] for b in batch], STEPS)
        with torch.inference_mode():
            for i in range(STEPS):
                wanted = torch.stack([expected[b][1][i] for b in batch])
                torch.testing.assert_close(stepper.logits(), wanted, rtol=0, atol=1e-3)
                stepper.append(torch.tensor([expected[b][0][i] for b in batch]))
    return padded


@pytest.mark.parametrize("name", PADDED)
def test_unequal_prompts_in_one_batch(name):
    assert check(architectures.build(name))


@pytest.mark.parametrize("name", APART)
def test_what_padding_would_change_is_not_padded(name):
    assert not check(architectures.build(name))


@pytest.mark.parametrize("name", ["GPT2", "GPTNeo", "Llama", "Mamba"])
def test_wrappers_that_show_only_kwargs(name):
    model = architectures.build(name)
    check(Wrapper(model), model)


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_peft(name):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
    check(peft.get_peft_model(architectures.build(name), config).eval())
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(architectures.build(name), config).eval()
    with pytest.raises(WatermarkError, match="its adapter puts something of its own"):
        generate(model, PROMPTS, watermark_of(), max_new_tokens=2)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stepped_is_refused_with_the_remedy(name):
    message = r"is not supported here, because .*bindings\.transformers\.WatermarkConfig"
    with pytest.raises(WatermarkError, match=message):
        generate(
            architectures.build(name),
            PROMPTS,
            watermark_of(),
            max_new_tokens=2,
            on_done=lambda *_: pytest.fail("a text was written"),
        )


def test_other_things_than_language_models():
    model = architectures.build("Llama")
    for wrong in (model.model, torch.nn.Linear(2, 2), "llama", None):
        with pytest.raises(WatermarkError, match="must be a causal language model of transformers"):
            generate(wrong, PROMPTS, watermark_of(), max_new_tokens=2)
    with pytest.raises(WatermarkError, match=r"call model\.eval\(\)"):
        generate(model.train(), PROMPTS, watermark_of(), max_new_tokens=2)


@pytest.mark.parametrize(
    "name", ["Llama", "Mistral", "GPT2", "OPT", "Bloom", "Mpt", "Falcon with alibi"]
)
def test_no_mask_where_nothing_is_padded(name):
    """A mask makes transformers wait for the device at each step; without one, the logits are the same."""
    model, masks = architectures.build(name), []
    model.register_forward_pre_hook(
        lambda module, args, inputs: masks.append(inputs.get("attention_mask")), with_kwargs=True
    )
    equal, unequal = [[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [5, 6]]
    generate(model, equal, watermark_of(), max_new_tokens=3)
    prepare = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    assert [mask is None for mask in masks] == ["next_sequence_length" in prepare] * 3
    masks.clear()
    generate(model, unequal, watermark_of(), max_new_tokens=3)
    assert [tuple(mask.shape) for mask in masks] == [(2, 3), (2, 4), (2, 5)]
    steppers = [stepping.Stepper(model, prompts, 5) for prompts in (equal, [*equal, [8]])]
    with torch.inference_mode():
        for token in range(5):
            bare, masked = (stepper.logits() for stepper in steppers)
            torch.testing.assert_close(bare, masked[:2], rtol=0, atol=1e-4)
            for stepper in steppers:
                stepper.append(torch.full((len(bare) + (stepper is steppers[1]),), token))


def test_batches():
    lengths = [3, 1, 11, 2, 3, 3]
    assert stepping.batches(lengths, 4, padded=True) == [[2, 0, 4, 5], [3, 1]]
    assert stepping.batches(lengths, 2, padded=False) == [[2], [0, 4], [5], [3], [1]]
    assert stepping.batches([], 4, padded=True) == []


def test_names_of_the_cache():
    model = tiny.llama(VOCAB)
    for name in ("cache", "past_key_values", "cache_params"):
        assert stepping.cache_of({"logits": 0, name: 1}, model) == {name: 1}
    with pytest.raises(WatermarkError, match="LlamaForCausalLM is not supported here"):
        stepping.cache_of({"logits": 0, "cache": None}, model)
