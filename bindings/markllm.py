"""MarkLLM: its `EXPEdit` and `ITSEdit` with our engine behind them (PyPI 0.1.5 and the current repository).

The same configuration files, methods and results; `patch` makes ``AutoWatermark.load("EXPEdit", ...)`` ours. Text that
either side wrote is found by the other.

Mended, and so different: ITSEdit can be constructed through AutoWatermark (in the current repository it raises
TypeError); every text it writes uses the key that detection looks for (there, only the first after construction
does); its unwatermarked text is sampled freshly (there, each step restarts the global generator). Nothing seeds
torch's global generator, and nothing prints. EXPEdit's null statistics come from resampled keys of our own, so its
p-value has the same law as theirs, not the same digits; ITSEdit's are theirs, digit for digit.
"""

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from wmcore.bindings import jthickstun
from wmcore.checks import require
from wmcore.detect import Detection, Detector
from wmcore.errors import WatermarkError
from wmcore.generation import generate
from wmcore.watermark import Watermark

require("torch", "run pip install 'wmcore-lm[generate]'", "2.6", "3")

import torch  # noqa: E402


class _Config:
    """One algorithm's parameters from a JSON file (or a dict), and the model's from a ``TransformersConfig``.

    Parameters
    ----------
    algorithm_config : str, path, dict or None
        None takes MarkLLM's own defaults.
    transformers_config
        Has model, tokenizer, vocab_size, device and gen_kwargs, as MarkLLM's class does.
    **settings
        Override entries of the file.
    """

    algorithm_name: str
    _defaults: ClassVar[dict[str, Any]]

    def __init__(
        self, algorithm_config: Any = None, transformers_config: Any = None, **settings: Any
    ) -> None:
        self.config_dict = {**self._defaults, **self._read(algorithm_config), **settings}
        name = self.config_dict["algorithm_name"]
        if name != self.algorithm_name:
            raise WatermarkError(
                f"algorithm_name is {name!r}, but must be {self.algorithm_name!r}: give the file of this algorithm"
            )
        if transformers_config is None:
            raise WatermarkError(
                "transformers_config is None: give MarkLLM's TransformersConfig(model, tokenizer, ...)"
            )
        for entry in self._defaults:
            setattr(self, entry, self.config_dict[entry])
        self.generation_model = transformers_config.model
        self.generation_tokenizer = transformers_config.tokenizer
        self.vocab_size = transformers_config.vocab_size
        self.device = transformers_config.device
        self.gen_kwargs = transformers_config.gen_kwargs
        self.transformers_config = transformers_config

    @staticmethod
    def _read(source: Any) -> dict[str, Any]:
        if source is None or isinstance(source, dict):
            return source or {}
        try:
            found = json.loads(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WatermarkError(
                f"algorithm_config {source} cannot be read ({type(error).__name__}): give a JSON file of MarkLLM, a "
                "dict, or None"
            ) from None
        if not isinstance(found, dict):
            raise WatermarkError(f"algorithm_config {source} holds no JSON object")
        return found


class EXPEditConfig(_Config):
    """Configuration of `EXPEdit`: the entries of MarkLLM's ``config/EXPEdit.json``."""

    algorithm_name = "EXPEdit"
    _defaults: ClassVar[dict[str, Any]] = {
        "algorithm_name": "EXPEdit",
        "pseudo_length": 256,
        "sequence_length": 200,
        "n_runs": 100,
        "key": 42,
        "p_threshold": 0.2,
        "top_k": 0,
    }


class ITSEditConfig(_Config):
    """Configuration of `ITSEdit`: the entries of ``config/ITSEdit.json``, and random_offset.

    random_offset : start each text at a random key row. MarkLLM asks its own loop for that, which ignores it and
    starts at row 0; so does this unless it is set.
    """

    algorithm_name = "ITSEdit"
    _defaults: ClassVar[dict[str, Any]] = {
        "algorithm_name": "ITSEdit",
        "pseudo_length": 256,
        "sequence_length": 200,
        "n_runs": 500,
        "key": 42,
        "p_threshold": 0.1,
        "top_k": 0,
        "random_offset": False,
    }


@dataclass
class DataForVisualization:
    """What MarkLLM's pictures take, where MarkLLM itself is not imported."""

    decoded_tokens: list[str]
    highlight_values: list[float]
    weights: list[float] | None = None


class _Algorithm:
    """What both share."""

    config: Any
    watermark: Watermark
    _config_class: type[_Config]
    _cuts = True
    """Whether top_k is heeded."""
    _longest: int | None = None
    """Tokens of a text that are read."""

    def __init__(
        self, algorithm_config: Any = None, transformers_config: Any = None, **settings: Any
    ) -> None:
        if isinstance(algorithm_config, _Config):
            self.config = algorithm_config
        else:
            self.config = self._config_class(algorithm_config, transformers_config, **settings)
        self.watermark = self._watermark()
        self.detector = Detector(self.watermark)

    def _watermark(self) -> Watermark:
        raise NotImplementedError

    def _ids(self, text: str, special: bool) -> list[int]:
        tokenizer = self.config.generation_tokenizer
        longest = {"truncation": True, "max_length": self._longest} if self._longest else {}
        return list(tokenizer.encode(text, add_special_tokens=special, **longest))

    def _generate(
        self, prompt: list[int], watermark: Watermark | None, shift: int | None
    ) -> list[int]:
        (made,) = generate(
            self.config.generation_model,
            [prompt],
            watermark,
            max_new_tokens=self.config.sequence_length,
            top_k=self.config.top_k if self._cuts and watermark and self.config.top_k > 0 else None,
            shifts=shift,
            eos=False,
            progress=False,
        )
        if made.error is not None:
            raise WatermarkError(made.error)
        return made.tokens

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.config.generation_tokenizer.decode(tokens, skip_special_tokens=True)

    def _answer(
        self, p: float, below: bool, return_dict: bool
    ) -> dict[str, Any] | tuple[bool, float]:
        return {"is_watermarked": below, "score": p} if return_dict else (below, p)

    def get_data_for_visualization(self, text: str, *args: Any, **kwargs: Any) -> Any:
        """Each token of a text, and how well it fits the best window of the key: 0 (poorly) to 1."""
        tokens = self._ids(text, special=False)
        if not tokens:
            return _data_class()([], [])
        (found,) = self.detector.detect([tokens], resamples=1)
        if found.shift is None:
            raise WatermarkError(str(found.error))
        distinct, place = np.unique(tokens, return_inverse=True)
        engine, cost = self.detector.engine, self.detector.statistic.scheme.cost
        matrix = engine.units(engine.matrix(self.detector.costs, distinct))
        rows = (found.shift + np.arange(len(tokens))) % self.watermark.key_length
        values = cost.fit(matrix[place, rows])
        decoded = [self.config.generation_tokenizer.decode(token) for token in tokens]
        return _data_class()(decoded, values.tolist())


class EXPEdit(_Algorithm):
    """MarkLLM's EXPEdit: exponential minimum sampling from MT19937 numbers, aligned with free edits.

    Parameters
    ----------
    algorithm_config : str, path, dict, EXPEditConfig or None
    transformers_config : MarkLLM's TransformersConfig
    **settings : entries that override the file's
    """

    _config_class = EXPEditConfig

    def _watermark(self) -> Watermark:
        return Watermark.published(
            "exp-edit",
            seed=self.config.key,
            generator="mersenne",
            vocab_size=self.config.vocab_size,
            key_length=self.config.pseudo_length,
        )

    def generate_watermarked_text(self, prompt: str, *args: Any, **kwargs: Any) -> str:
        """The prompt and sequence_length watermarked tokens, from a random key row (torch's global generator)."""
        ids = self._ids(prompt, special=True)
        shift = int(torch.randint(self.config.pseudo_length, (1,)))
        return self._decode(ids + self._generate(ids, self.watermark, shift))

    def generate_unwatermarked_text(self, prompt: str, *args: Any, **kwargs: Any) -> str:
        """The prompt continued by ``model.generate`` with gen_kwargs."""
        inputs = self.config.generation_tokenizer(prompt, return_tensors="pt").to(
            self.config.device
        )
        made = self.config.generation_model.generate(**inputs, **self.config.gen_kwargs)
        return self._decode(made[0])

    def detect_watermark(
        self, text: str, return_dict: bool = True, *args: Any, **kwargs: Any
    ) -> Any:
        """{"is_watermarked", "score"} (or a tuple): score is p = (1 + hits) / (n_runs + 1), below p_threshold.

        A text without tokens is not watermarked, and its score 1.0: every key fits it equally well.
        """
        (found,) = self._detections([text])
        if found.p_value is None:
            raise WatermarkError(str(found.error))
        return self._answer(found.p_value, found.p_value < self.config.p_threshold, return_dict)

    def detect_watermarks(self, texts: Sequence[str], return_dict: bool = True) -> list[Any]:
        """`detect_watermark` of many texts in one batch. The nulls follow ``numpy.random.seed``.

        A text that cannot be tested does not end the batch: with a warning, its score is 1.0.
        """
        answers = []
        for place, found in enumerate(self._detections(texts)):
            p = found.p_value
            if p is None:
                _warn(place, found.error)
                p = 1.0
            answers.append(self._answer(p, p < self.config.p_threshold, return_dict))
        return answers

    def _detections(self, texts: Sequence[str]) -> list[Detection]:
        ids = [self._ids(text, special=False) for text in texts]
        found = self.detector.detect(
            ids,
            resamples=self.config.n_runs,
            stop_after=None,
            seed=int(np.random.randint(2**31)),  # noqa: NPY002 - the generator that MarkLLM draws its nulls from
        )
        return [
            one if tokens else replace(one, p_value=1.0)
            for one, tokens in zip(found, ids, strict=True)
        ]


class ITSEdit(_Algorithm):
    """MarkLLM's ITSEdit: inverse transform sampling with a torch key, aligned with edits of cost 1.

    Parameters are those of `EXPEdit`.
    """

    _config_class = ITSEditConfig
    _cuts = False  # MarkLLM's reads top_k and does not use it
    _longest = 2048

    def _watermark(self) -> Watermark:
        source = torch.Generator().manual_seed(self.config.key)
        seeds = torch.randint(2**32, (self.config.sequence_length,), generator=source)
        self._seed = int(seeds[0])
        return Watermark.published(
            "its-edit",
            seed=self._seed,
            generator="torch",
            vocab_size=self.config.vocab_size,
            key_length=self.config.pseudo_length,
            gap=1.0,
        )

    def generate_watermarked_text(self, prompt: str, *args: Any, **kwargs: Any) -> str:
        """Up to sequence_length watermarked tokens, without the prompt, cut at the first end-of-text token (id 2)."""
        n = self.config.pseudo_length
        shift = int(torch.randint(n, (1,))) if self.config.random_offset else 0
        return self._clipped(self._generate(self._ids(prompt, special=True), self.watermark, shift))

    def generate_unwatermarked_text(self, prompt: str, *args: Any, **kwargs: Any) -> str:
        """sequence_length freshly sampled tokens, without the prompt."""
        return self._decode(self._generate(self._ids(prompt, special=True), None, None))

    def detect_watermark(
        self, text: str, return_dict: bool = True, *args: Any, **kwargs: Any
    ) -> Any:
        """{"is_watermarked", "score"} (or a tuple): score is the share of n_runs other keys that fit as well.

        As there, special tokens are part of the text, the score can be 0, and p_threshold itself still counts. A text
        without tokens is not watermarked, and its score 1.0: every key fits it equally well.
        """
        tokens = torch.tensor(self._ids(text, special=True), dtype=torch.int64)
        if not len(tokens):
            return self._answer(1.0, False, return_dict)
        size, n = self.config.vocab_size, self.config.pseudo_length
        if int(tokens.max()) >= size:
            raise WatermarkError(
                f"token {int(tokens.max())} is outside the vocabulary of {size} tokens: "
                "is this the watermark's tokenizer?"
            )

        def statistic(
            tokens: Any, n: int, k: int, generator: Any, vocab_size: int, null: bool = False
        ) -> Any:
            return jthickstun.phi(
                tokens,
                n,
                k,
                generator,
                jthickstun.transform_key_func,
                vocab_size,
                jthickstun.transform_edit_score,
                normalize=True,
            )

        with torch.random.fork_rng(
            devices=[]
        ):  # their nulls, without their seeding of everyone's generator
            torch.manual_seed(self.config.key)
            seed = self._seed
            p = jthickstun.permutation_test(
                tokens, size, n, len(tokens), seed, statistic, n_runs=self.config.n_runs
            )
        return self._answer(float(p), bool(p <= self.config.p_threshold), return_dict)

    def detect_watermarks(self, texts: Sequence[str], return_dict: bool = True) -> list[Any]:
        """`detect_watermark` of many texts.

        A text that cannot be tested does not end the batch: with a warning, its score is 1.0.
        """
        answers = []
        for place, text in enumerate(texts):
            try:
                answers.append(self.detect_watermark(text, return_dict))
            except WatermarkError as error:
                _warn(place, str(error))
                answers.append(self._answer(1.0, False, return_dict))
        return answers

    def _clipped(self, tokens: list[int]) -> str:
        return self._decode(tokens[: tokens.index(2)] if 2 in tokens else tokens)


def _warn(place: int, error: str | None) -> None:
    warnings.warn(
        f"text {place} was not tested and counts as not watermarked: {error}", stacklevel=3
    )


def _data_class() -> Any:
    """MarkLLM's own class, if it is loaded."""
    for name in ("visualize.data_for_visualization", "markllm.visualize.data_for_visualization"):
        if name in sys.modules:
            return sys.modules[name].DataForVisualization
    return DataForVisualization


def patch() -> list[str]:
    """Make ``AutoWatermark.load("EXPEdit" or "ITSEdit", ...)`` of MarkLLM ours; call it before MarkLLM loads one.

    Nothing needs Cython then. Returns the names of the modules that are ours now.
    """
    names = []
    for top in ("watermark", "markllm.watermark"):
        for folder, algorithm, config in (
            ("exp_edit", EXPEdit, EXPEditConfig),
            ("its_edit", ITSEdit, ITSEditConfig),
        ):
            package = ModuleType(
                f"{top}.{folder}", f"{algorithm.__name__}, provided by {__name__}."
            )
            package.__path__ = []
            inner = ModuleType(f"{top}.{folder}.{folder}", package.__doc__)
            for module in (package, inner):
                setattr(module, algorithm.__name__, algorithm)
                setattr(module, config.__name__, config)
                sys.modules[module.__name__] = module
                names.append(module.__name__)
            setattr(package, folder, inner)
            if top in sys.modules:
                setattr(sys.modules[top], folder, package)
    return sorted(names)
