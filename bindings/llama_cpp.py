"""llama.cpp: `Llama` of llama-cpp-python that writes our watermark, and its OpenAI-compatible server with it.

The token is drawn from the key at the end of llama.cpp's own chain, just before the step that would draw at random:
penalties, grammar, biases, top-k, typical, top-p, min-p and temperature have been applied by then, and keep working.
Each text is watermarked but those that leave nothing to draw (temperature 0, mirostat), which are counted and logged,
or refused if a mark was asked for.

``python -m wmcore.bindings.llama_cpp --model m.gguf`` is ``python -m llama_cpp.server`` whose texts are watermarked.
WMCORE_LLAMA_CPP_WATERMARK names the watermark file, WMCORE_LLAMA_CPP_REQUIRED=1 refuses what would go unmarked.

Needs no torch. What was run, and on which versions: docs/bindings/llama_cpp.md.
"""

import contextlib
import ctypes
import inspect
import logging
import os
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np

from wmcore.bindings._serving import Sampling, Service, Stream, Wish, installed, variable
from wmcore.checks import require
from wmcore.errors import WatermarkError
from wmcore.watermark import Watermark

_INSTALL = "run pip install 'wmcore-lm[llamacpp]'"
_VERSION = require("llama-cpp-python", _INSTALL, "0.3.36", "0.4")

import llama_cpp  # noqa: E402

__all__ = ["ENVIRONMENT", "Llama", "main"]

SERVER = "llama_cpp"
ENVIRONMENT = variable(SERVER)
"""Names the watermark file of the server."""

LOGGER = "wmcore.llama_cpp"


class _Text:
    """One text that is being marked: a custom sampler of llama.cpp, called once for each token."""

    def __init__(self, stream: Stream) -> None:
        self.position = 0
        self._stream = stream
        self._row = np.empty((1, stream.watermark.vocab_size), np.float32)
        self._drawn: int | None = None
        self._error: BaseException | None = None

    def apply(self, candidates: Any) -> None:
        """Leave of the candidates, a pointer to llama_token_data_array, the token that the key draws."""
        try:
            self._apply(candidates.contents)
        except BaseException as error:  # ctypes would swallow it
            self._error = error

    def _apply(self, array: Any) -> None:
        self._drawn = None
        key_row = self._stream.row(self.position)
        self.position += 1
        items = (llama_cpp.llama_token_data * array.size).from_address(
            ctypes.addressof(array.data.contents)
        )
        tokens = np.frombuffer(items, np.dtype(llama_cpp.llama_token_data))
        known = tokens[tokens["id"] < self._row.shape[1]]
        self._row.fill(-np.inf)
        self._row[0, known["id"]] = known["logit"]
        if not np.isfinite(self._row.max()):
            self._stream.unmarked("no candidate has a probability (all masked, or NaN)")
            return
        self._drawn = int(self._stream.array_draw(self._row, np.array([key_row]), 1.0)[0])
        (places,) = np.nonzero(tokens["id"] == self._drawn)
        items[0] = items[int(places[0])]
        array.size = 1

    def check(self, position: int, token: int) -> None:
        """Raise if the token sampled at a position is not the one that the key drew."""
        if self._error is not None:
            raise self._error
        if self.position != position + 1 or self._drawn not in (None, token):
            raise WatermarkError(
                f"llama-cpp-python {_VERSION} did not take the token that the key drew: "
                "use a version that docs/bindings/llama_cpp.md names"
            )


@dataclass(frozen=True)
class _Asked:
    """What holds for a text that begins: its wish, and the seed of its request."""

    wish: Wish = field(default_factory=Wish)
    seed: int | None = None


class Llama(llama_cpp.Llama):
    """`llama_cpp.Llama` that watermarks what it writes.

    Everything else is llama_cpp's: completions, chat, streams, grammars, processors, caches, draft models. The key
    row of a text's first token is the one that `marking` gives, else it follows from ``seed=`` of the call, else from
    a seed given to the constructor and the number of the text, else it is random. Like its base, not safe to use from
    several threads at once.

    Parameters
    ----------
    model_path : str
        A GGUF file.
    watermark : Watermark or path
        Its vocab_size may be below the model's number of logits (the rest is never drawn), not above it.
    required : bool
        Refuse every text that would go unmarked.
    **options
        Of `llama_cpp.Llama`.

    Attributes
    ----------
    service : Service
        ``service.counts`` says how many texts were marked, and how many not, and why.

    Raises
    ------
    WatermarkError
        For a watermark that does not fit the model, or a version of llama-cpp-python that samples in another way. When
        writing: for a text that has to be watermarked and cannot be.

    Examples
    --------
    >>> llm = Llama("m.gguf", watermark="mark.json")  # doctest: +SKIP
    >>> with llm.marking(wmcore_label="acme"):  # doctest: +SKIP
    ...     answer = llm("The sea", max_tokens=200)
    """

    _stack = contextlib.ExitStack()  # so that __del__ works where __init__ fails early

    def __init__(
        self,
        model_path: str,
        *,
        watermark: Watermark | str | os.PathLike[str],
        required: bool = False,
        **options: Any,
    ) -> None:
        mark = watermark if isinstance(watermark, Watermark) else Watermark.load(watermark)
        self.service = Service(mark, LOGGER, required=required)
        self._asked = _Asked()
        self._text: _Text | None = None
        seed = _fixed(options.get("seed"))
        self._lots = (None if seed is None else f"{SERVER} {seed} {i}" for i in count())
        super().__init__(model_path, **options)
        self._check()

    @contextlib.contextmanager
    def marking(
        self,
        *,
        wmcore: bool | None = None,
        wmcore_label: str | None = None,
        wmcore_shift: int | None = None,
    ) -> Iterator[None]:
        """Inside, texts that begin (streams: are asked for) are marked so.

        Parameters
        ----------
        wmcore : bool, optional
            False for no watermark; True to refuse texts that cannot have one.
        wmcore_label : str, optional
            A tenant, whose key is ``Key.derive(label)``.
        wmcore_shift : int, optional
            Key row of the first token of each text.

        Raises
        ------
        WatermarkError
            For a value that cannot be meant. What this watermark refuses is raised when a text begins.
        """
        fields = {"wmcore": wmcore, "wmcore_label": wmcore_label, "wmcore_shift": wmcore_shift}
        with self._asking(_Asked(Wish.read(fields))):
            yield

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As of `llama_cpp.Llama`."""
        return self._written(super().generate(*args, **kwargs), self._asked)

    def create_completion(self, *args: Any, **kwargs: Any) -> Any:
        """As of `llama_cpp.Llama`."""
        call = inspect.signature(super().create_completion).bind(*args, **kwargs)
        asked = replace(self._asked, seed=_fixed(call.arguments.get("seed")))
        with self._asking(asked):
            answer = super().create_completion(*args, **kwargs)
        return self._streamed(answer, asked) if isinstance(answer, Iterator) else answer

    def sample(self, *args: Any, **kwargs: Any) -> int:
        """As of `llama_cpp.Llama`; WatermarkError outside a text of `generate`, where no token has a position."""
        if self._sampler is None:
            call = inspect.signature(super().sample).bind(*args, **kwargs)
            if self.service.admit(self._asked.wish, _settings(call)):
                raise WatermarkError(
                    "sample() was called outside a text, so its token has no position and cannot be watermarked: "
                    "use generate(), or marking(wmcore=False)"
                )
        position = self._text.position if self._text else 0
        token = super().sample(*args, **kwargs)
        if self._text:
            self._text.check(position, token)
        return token

    def __getstate__(self) -> dict[str, Any]:
        ours = {"watermark": self.service.watermark, "required": self.service.required}
        return {**super().__getstate__(), **ours}

    def _init_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """A text begins: llama_cpp's chain of samplers, ours in it."""
        call = inspect.signature(super()._init_sampler).bind(*args, **kwargs)
        stream = self.service.open(
            self._asked.wish, _settings(call), seed=self._asked.seed, lot=next(self._lots)
        )
        sampler = super()._init_sampler(*args, **kwargs)
        text = _Text(stream) if stream is not None else None
        if text is not None:
            _insert(sampler, text)
        self._text = text  # not before: where this raises, the text before goes on with its sampler
        return sampler

    @contextlib.contextmanager
    def _asking(self, asked: _Asked) -> Iterator[None]:
        before, self._asked = self._asked, asked
        try:
            yield
        finally:
            self._asked = before

    def _written(self, tokens: Any, asked: _Asked) -> Generator[int, Any, None]:
        """The tokens of `generate`, which takes some, too. Its text begins when it is first read."""
        with contextlib.closing(tokens):
            given = None
            while True:
                try:
                    with self._asking(asked):
                        token = tokens.send(given)
                except StopIteration:
                    return
                given = yield token

    def _streamed(self, chunks: Any, asked: _Asked) -> Iterator[Any]:
        """A stream begins its text when it is first read, perhaps outside `marking`."""
        with contextlib.closing(chunks):
            while True:
                with self._asking(asked):
                    chunk = next(chunks, None)
                if chunk is None:
                    return
                yield chunk

    def _check(self) -> None:
        """Raise WatermarkError if the watermark does not fit the model, or if drawing does not work here."""
        size = self.service.watermark.vocab_size
        self.service.check_vocabulary(self.n_vocab(), self.model_path)
        if self.token_eos() >= size:
            raise WatermarkError(
                f"{self.model_path}: its end-of-text token {self.token_eos()} is outside the watermark's vocab_size "
                f"{size}, so no text would end; use the watermark made for this model"
            )
        text = _Text(Stream(self.service, self.service.watermark, 0, Sampling()))
        tokens = [(i, 0.0, 0.0) for i in range(min(3, size))]
        try:
            _settings(inspect.signature(super()._init_sampler).bind())
            sampler = super()._init_sampler()
            _insert(sampler, text)
            items = (llama_cpp.llama_token_data * len(tokens))(*tokens)
            array = llama_cpp.llama_token_data_array(items, len(tokens), -1, False)
            llama_cpp.llama_sampler_apply(sampler.sampler, ctypes.byref(array))
            token = array.data[array.selected].id
        except (AttributeError, KeyError, TypeError) as error:
            raise WatermarkError(
                f"llama-cpp-python {_VERSION} samples in a way that is not known here ({error}): "
                "use a version that docs/bindings/llama_cpp.md names"
            ) from error
        text.check(0, token)


def _insert(sampler: Any, text: _Text) -> None:
    """Put a text's draw before the last sampler of a chain, which must be the one that draws at random."""
    chain = sampler.sampler
    last = llama_cpp.llama_sampler_chain_n(chain) - 1
    name = llama_cpp.llama_sampler_name(llama_cpp.llama_sampler_chain_get(chain, last))
    if name != b"dist":
        raise WatermarkError(
            f"llama-cpp-python {_VERSION} ends its chain of samplers with {name!r} instead of b'dist': "
            "use a version that docs/bindings/llama_cpp.md names"
        )
    dist = llama_cpp.llama_sampler_chain_remove(chain, last)
    sampler.add_custom(text.apply)
    llama_cpp.llama_sampler_chain_add(chain, dist)


def _settings(call: inspect.BoundArguments) -> Sampling:
    """How a text is sampled, of the arguments of `_init_sampler` or `sample`."""
    call.apply_defaults()
    temperature = call.arguments["temp"]
    mirostat = call.arguments["mirostat_mode"] in (1, 2) and temperature > 0
    return Sampling(
        temperature=1.0 if temperature < 0 else float(temperature),  # below 0: llama_cpp's for 1
        otherwise="mirostat" if mirostat else "",
    )


def _fixed(seed: int | None) -> int | None:
    """A seed, or None for those that mean a random one."""
    return None if seed is None or seed % (1 << 32) == llama_cpp.LLAMA_DEFAULT_SEED else seed


class _Served(Llama):
    """What the server loads: watermarked as the environment says."""

    def __init__(self, *args: Any, **options: Any) -> None:
        service = installed(SERVER, LOGGER)
        assert service is not None
        super().__init__(*args, watermark=service.watermark, required=service.required, **options)


def main() -> None:
    """llama_cpp's server, which takes its options from the command line, with watermarked texts."""
    try:
        if installed(SERVER, LOGGER) is None:
            raise WatermarkError(f"{ENVIRONMENT} names no watermark file: wmcore keygen makes one")
        require("fastapi", "run pip install 'llama-cpp-python[server]'")
    except WatermarkError as error:
        sys.exit(f"wmcore: {error}")
    from llama_cpp.server.__main__ import main as serve

    logging.basicConfig()
    logging.getLogger("wmcore").setLevel(logging.INFO)
    llama_cpp.Llama = _Served
    serve()


if __name__ == "__main__":
    main()
