"""`Panel`: texts in, `Answer` records out, under one or several watermarks, with p corrected for their number.

Each watermark has a detector of its own, so they may differ in anything. p is K times the least p of the K watermarks
(Bonferroni), and a text is found where that is at most the level: one in 1 / level texts without any of the watermarks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wmcore.checks import real_number, whole_number
from wmcore.detect import Detector, resamples_for
from wmcore.detection import LEAST_TOKENS, LEVEL, Detection
from wmcore.errors import WatermarkError
from wmcore.locate import Span, local_detector, locate
from wmcore.types import SchemeName
from wmcore.verdict import LEAST_DISTINCT, Verdict, verdicts
from wmcore.watermark import Watermark
from wmcore.windows import MOST_RESAMPLES, untold

_TOKEN_BYTES = 10  # a longer text than so many bytes for each of the most tokens is not even read
_WARM = 40  # tokens of the text that kernels are compiled with

FOUND, NOT_FOUND, TOO_SHORT, NOT_TESTED = "found", "not found", "too short", "not tested"
"""What a text can be called."""
VERDICTS = (FOUND, NOT_FOUND, TOO_SHORT, NOT_TESTED)


class TooManyTokens(WatermarkError):
    """Text `index` of a batch has more tokens than the limit, or more bytes than so many tokens have."""

    def __init__(self, index: int, size: str, limit: int) -> None:
        super().__init__(
            f"text {index} has {size}, but at most {limit:,} tokens are taken: send it in parts"
        )
        self.index = index
        self.limit = limit


@dataclass(frozen=True)
class Text:
    """A text that was read. content : as it came; ids : by the names of the watermarks, its token ids, int64 [m], or
    the content where they cannot be tested; length : in tokens, the most under any of them, if it is known."""

    content: Any
    ids: dict[str, Any]
    length: int | None


@dataclass(frozen=True)
class Place:
    """Where the watermark is: tokens start .. stop - 1, and their characters, if the tokenizer tells."""

    start: int
    stop: int
    char_start: int | None = None
    char_stop: int | None = None


@dataclass(frozen=True)
class Detail:
    """What a page needs to show a text: arguments of `token_page.passage`.

    scheme : that the text was tested as; tokens : int64 [m]; tokenizer : None where only token ids are known;
    detection : of the best watermark, with its alignment and the corrected p; spans : the passages of a found text.
    """

    scheme: str
    tokens: np.ndarray
    tokenizer: Any
    detection: Detection
    spans: list[Span]


@dataclass(frozen=True)
class Answer:
    """What the service says of one text. Fields are None where they are not known, or not for the one who asks.

    Attributes
    ----------
    verdict : str
        One of `VERDICTS`.
    p_value : float or None
        K times the least p of the K watermarks, at most 1.
    statistic : float or None
        Of the watermark that fits best: lower fits better.
    length : int or None
        Tokens in the text.
    span : Place or None
        The strongest passage of a text that is found: by `locate`, or the best window of a text that was tested in
        windows. None where no passage stands out by itself.
    watermark, fingerprint : str or None
        Name and key fingerprint of the watermark that was found.
    windows : int
        In how many windows the text was tested.
    error : str or None
        Why there is no answer, or none under some of the watermarks.
    detail : Detail or None
        On request.
    """

    verdict: str
    p_value: float | None = None
    statistic: float | None = None
    length: int | None = None
    span: Place | None = None
    watermark: str | None = None
    fingerprint: str | None = None
    windows: int = 1
    error: str | None = None
    detail: Detail | None = field(default=None, compare=False)


class Panel:
    """Detectors of K watermarks, asked together.

    Parameters
    ----------
    watermarks : mapping of str to Watermark
        By the names that answers use.
    level : float
        The largest corrected p of a text that is found.
    scheme, threads : optional
        As for `Detector`.
    tokenizer : str or tokenizer, optional
        In place of the watermarks' own.
    most_tokens : int, optional
        A longer text raises `TooManyTokens` before anything is tested.

    Raises
    ------
    WatermarkError
        For no watermarks, a watermark or tokenizer that cannot be used, or a level that no affordable number of
        resamples can reach.
    """

    def __init__(
        self,
        watermarks: Mapping[str, Watermark],
        *,
        level: float = LEVEL,
        scheme: SchemeName | None = None,
        threads: int | None = None,
        tokenizer: Any = None,
        most_tokens: int | None = None,
    ) -> None:
        from wmcore.models import load_tokenizer

        if not watermarks:
            raise WatermarkError("watermarks is empty: give at least one")
        self.level = real_number("level", level, 0, 1)
        self.most_tokens = most_tokens and whole_number("most_tokens", most_tokens, 1)
        _check_level(self.level, len(watermarks))
        loaded: dict[str, Any] = {}
        self.detectors: dict[str, Detector] = {}
        for name, watermark in watermarks.items():
            chosen = watermark.tokenizer if tokenizer is None else tokenizer
            if isinstance(chosen, str):
                if chosen not in loaded:
                    loaded[chosen] = load_tokenizer(chosen)
                chosen = loaded[chosen]
            self.detectors[name] = Detector(
                watermark, scheme=scheme, threads=threads, tokenizer=chosen
            )
        self._local = {name: local_detector(one) for name, one in self.detectors.items()}

    @property
    def reads_texts(self) -> bool:
        """Whether some watermark has a tokenizer, so that texts can be tested, and not token ids alone."""
        return any(one.tokenizer is not None for one in self.detectors.values())

    @property
    def share(self) -> float:
        """The level of each watermark: the level over their number."""
        return self.level / len(self.detectors)

    def answer(self, contents: Sequence[Any], *, detail: bool = False) -> list[Answer]:
        """What is said of each text: `judge` of what `read` reads.

        Parameters
        ----------
        contents : sequence
            Texts as `Detector.detect` takes them.
        detail : bool
            Whether answers carry a `Detail`.

        Returns
        -------
        list of Answer
            One for each text, in order. A text that cannot be tested is "not tested", with an `error`.

        Raises
        ------
        TooManyTokens
            For a text over the limit, before any is tested.
        """
        return self.judge(self.read(contents), detail=detail)

    def read(self, contents: Sequence[Any]) -> list[Text]:
        """The texts in tokens; TooManyTokens for one over the limit."""
        self._check_bytes(contents)
        ids = [dict.fromkeys(self.detectors, content) for content in contents]
        most: list[int | None] = [None] * len(contents)
        coded: dict[tuple[int, int], list[Any]] = {}  # by tokenizer: a text is coded once by each
        for name, detector in self.detectors.items():
            kind = id(detector.tokenizer), detector.watermark.vocab_size
            batch = detector.read(coded.get(kind, contents))
            lengths = {i: length for i, (length, _) in batch.failed.items() if length is not None}
            for i, array in [*zip(batch.places, batch.arrays, strict=True), *batch.long.items()]:
                ids[i][name] = array
                lengths[i] = len(array)
            for i, length in lengths.items():
                most[i] = max(length, most[i] or 0)
            coded[kind] = [one[name] for one in ids]
        for i, longest in enumerate(most):
            if self.most_tokens is not None and (longest or 0) > self.most_tokens:
                raise TooManyTokens(i, f"{longest:,} tokens", self.most_tokens)
        return [Text(*one) for one in zip(contents, ids, most, strict=True)]

    def _check_bytes(self, contents: Sequence[Any]) -> None:
        """Raise TooManyTokens for a string that is not worth coding: a tokenizer takes a kilobyte for a token."""
        if self.most_tokens is None:
            return
        for i, content in enumerate(contents):
            if isinstance(content, str):
                size = len(content.encode("utf-8", "surrogatepass"))
                if size > _TOKEN_BYTES * self.most_tokens:
                    raise TooManyTokens(i, f"{size:,} bytes", self.most_tokens)

    def judge(self, texts: Sequence[Text], *, detail: bool = False) -> list[Answer]:
        """What is said of each text; see `answer`."""
        found = {
            name: detector.detect(
                [text.ids[name] for text in texts], level=self.share, alignment=detail
            )
            for name, detector in self.detectors.items()
        }
        return [
            self._answer(text, {name: records[i] for name, records in found.items()}, detail)
            for i, text in enumerate(texts)
        ]

    def judge_coarsely(self, texts: Sequence[Text]) -> list[Answer]:
        """The same for strangers: whether a text is found, by `wmcore.verdict`, and nothing else that a key decides."""
        found = {
            name: verdicts(detector, [text.ids[name] for text in texts], level=self.share)
            for name, detector in self.detectors.items()
        }
        return [
            _coarse(text, [records[i] for records in found.values()])
            for i, text in enumerate(texts)
        ]

    def check_coarse(self) -> None:
        """Raise WatermarkError if `judge_coarsely` cannot answer at this level."""
        verdicts(next(iter(self.detectors.values())), [], level=self.share)

    def warm(self) -> None:
        """Load or compile the kernels that answers need."""
        for name, detector in self.detectors.items():
            ids = np.arange(_WARM) % detector.watermark.vocab_size
            detector.detect([ids], level=self.share, alignment=True)
            self._spans(name, ids)

    def _answer(self, text: Text, records: dict[str, Detection], detail: bool) -> Answer:
        """One answer of the detections under each watermark."""
        errors = {name: told for name, one in records.items() if (told := self._untold(one))}
        tested = [name for name in records if name not in errors]
        if not tested:
            return Answer(_untested(text), length=text.length, error=_told(errors, len(records)))
        best = min(tested, key=lambda name: (records[name].p_value, records[name].statistic))
        one = records[best]
        found = one.found(self.share)
        p_value = min(1.0, len(records) * float(one.p_value or 0.0))
        spans = self._spans(best, text.content) if found else []
        detector = self.detectors[best]
        more = None
        if detail:
            said = replace(one, p_value=p_value)
            scheme = detector.statistic.scheme.name
            more = Detail(scheme, text.ids[best], detector.tokenizer, said, spans)
        return Answer(
            verdict={True: FOUND, False: NOT_FOUND, None: TOO_SHORT}[found],
            p_value=p_value,
            statistic=one.statistic,
            length=one.length,
            span=_place(spans, one) if found else None,
            watermark=best if found else None,
            fingerprint=detector.watermark.fingerprint if found else None,
            windows=one.windows,
            error=_told(errors, len(records)),
            detail=more,
        )

    def _untold(self, one: Detection) -> str | None:
        """Why a detection says nothing, or None."""
        if one.p_value is None or one.p_value <= self.share:
            return one.error
        return untold(one.windows, self.share)

    def _spans(self, name: str, content: Any) -> list[Span]:
        """The passages that a bound proves (p <= 0.005 for all of them together), which takes no resamples."""
        try:
            return locate(self._local[name], content, resamples=1)
        except WatermarkError:  # the text is too long for the table of its paths
            return []


def _check_level(level: float, count: int) -> None:
    """Raise WatermarkError for a level, shared by so many watermarks, that takes more resamples than a service has."""
    if not level or resamples_for(level / count) > MOST_RESAMPLES:
        least = 2 * count / (MOST_RESAMPLES + 1)
        raise WatermarkError(
            f"level is {level:g}, but must be at least {least:g} for {count:,} watermarks, so that {MOST_RESAMPLES:,} "
            "resamples can tell: raise it, or serve fewer watermarks"
        )


def _place(spans: list[Span], detection: Detection) -> Place | None:
    """The strongest passage, or else the best window of a text that was tested in windows."""
    if spans:
        best = min(spans, key=lambda span: (span.p_value, span.statistic))
        return Place(best.start, best.stop, best.char_start, best.char_stop)
    return None if detection.window is None else Place(*detection.window)


def _untested(text: Text) -> str:
    """The verdict on a text in which no watermark could be sought."""
    return NOT_TESTED if text.length is None or text.length >= LEAST_TOKENS else TOO_SHORT


def _coarse(text: Text, records: Sequence[Verdict]) -> Answer:
    """One answer of the verdicts under each watermark."""
    said = {one.found for one in records}
    if True in said:
        return Answer(FOUND)
    errors = [one.error for one in records if one.error is not None]
    if False in said:  # without names
        under = f"under {len(errors)} of {len(records)} watermarks: {errors[0]}" if errors else None
        return Answer(NOT_FOUND, error=under)
    ids = [array for array in text.ids.values() if isinstance(array, np.ndarray)]
    repeats = any(len(np.unique(array)) < LEAST_DISTINCT for array in ids)
    return Answer(TOO_SHORT if repeats else _untested(text), error=errors[0])


def _told(errors: Mapping[str, str | None], count: int) -> str | None:
    """What is wrong: said once if it is the same under all of `count` watermarks, else with their names."""
    kinds = set(errors.values())
    if len(kinds) == 1 and len(errors) == count:
        return kinds.pop()
    return "; ".join(f"watermark {name}: {error}" for name, error in errors.items()) or None
