"""SmolLM2 as a folder of transformers: servers do not read the package's GGUF file."""

from pathlib import Path

from wmcore.models import load_model

FOLDER = Path(__file__).resolve().parents[2] / "build" / "smollm2"


def folder() -> Path:
    """The folder, made on the first call: float32 weights (538 MB) and the tokenizer."""
    if not (FOLDER / "done").exists():
        model, tokenizer = load_model("smollm2")
        # A model read from GGUF is taken for a quantised one, and refuses to be saved.
        del model.config.quantization_config
        fresh = type(model)(model.config)
        fresh.load_state_dict(model.state_dict())
        fresh.save_pretrained(FOLDER)
        tokenizer.save_pretrained(FOLDER)
        (FOLDER / "done").touch()
    return FOLDER
