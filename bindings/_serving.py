"""What the bindings for servers share: what a request may ask for, its first key row, and the forcing of its tokens.

A `Service` is the watermark of a server. For each request it reads a `Wish` from the request's own fields, refuses what
cannot be honoured (`admit`), and opens a `Stream` (`open`): the draw and the key rows of one text. `force` then
leaves of each row of logits the one token that the key draws, so that whatever the server does next picks it.

Nothing is served unmarked in silence. A request that asks for a mark and cannot have it is refused; one that goes
unmarked (switched off, greedy, a row without a distribution) is counted and logged with its reason. The line of a
marked request proves what was applied: the writing key's fingerprint, the scheme and a keyed hash of the shift.
"""

import hashlib
import hmac
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from math import isnan
from typing import Any

import numpy as np

from wmcore import sampling
from wmcore.errors import WatermarkError, shown
from wmcore.truncate import SEQUENTIAL, penalised, truncated
from wmcore.watermark import Watermark

FIELDS = ("wmcore", "wmcore_label", "wmcore_shift")
"""What a request may say of the watermark, wherever its server takes fields of that kind."""

GREEDY = 1e-5
"""Temperatures below this draw nothing."""


@dataclass(frozen=True)
class Wish:
    """What a request says of the watermark.

    wanted : bool or None, on or off, None where it says nothing; label : str or None, a tenant, whose key is
    `Key.derive(label)`; shift : int or None, the key row of the first token.
    """

    wanted: bool | None = None
    label: str | None = None
    shift: int | None = None

    @classmethod
    def read(cls, fields: Mapping[str, Any] | None) -> "Wish":
        """The wish in a request's fields. Raises WatermarkError for one that cannot be meant."""
        ours = {name: value for name, value in (fields or {}).items() if _ours(name)}
        unknown = sorted(set(ours) - set(FIELDS))
        if unknown:
            raise WatermarkError(
                f"{shown(unknown[0])} is no field of wmcore: use one of {', '.join(FIELDS)}"
            )
        wanted, label, shift = (ours.get(name) for name in FIELDS)
        if wanted not in (None, True, False):  # 1 and 0 are these
            raise WatermarkError(f"wmcore is {shown(wanted)}, but must be true or false (1 or 0)")
        if label is not None and not isinstance(label, str):
            raise WatermarkError(f"wmcore_label is a {type(label).__name__}, but must be a string")
        if label is not None and any("\ud800" <= c <= "\udfff" for c in label):
            raise WatermarkError("wmcore_label holds half a surrogate pair, which UTF-8 cannot say")
        if shift is not None and (isinstance(shift, bool) or not isinstance(shift, int)):
            raise WatermarkError(f"wmcore_shift {shown(shift)} is not a whole number")
        return cls(None if wanted is None else bool(wanted), label, shift)

    @property
    def asks(self) -> bool:
        """Whether the request asks for a mark, outright or by a key or a row of its own."""
        given = self.label is not None or self.shift is not None
        return given if self.wanted is None else self.wanted


@dataclass(frozen=True)
class Sampling:
    """How a request is sampled; the names have their usual meaning. top_k 0 or less keeps all tokens.

    otherwise : str, what picks the tokens if no draw of ours can ("beam search", "mirostat"), else "".
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    otherwise: str = ""

    @property
    def greedy(self) -> bool:
        """Whether the temperature is too low for a draw."""
        return self.temperature < GREEDY

    @property
    def undrawn(self) -> str:
        """What picks the tokens where there is no draw that could carry a mark, else ""."""
        if any(isinstance(value, float) and isnan(value) for value in vars(self).values()):
            return "a setting that is not a number"
        return self.otherwise or ("greedy" if self.greedy else "")

    @property
    def penalises(self) -> bool:
        """Whether logits depend on the tokens before."""
        return (self.repetition, self.frequency, self.presence) != (1.0, 0.0, 0.0)


class Stream:
    """One text that is being marked: its draw, and which key row each position takes."""

    def __init__(
        self, service: "Service", watermark: Watermark, shift: int, settings: Sampling
    ) -> None:
        self.watermark = watermark
        self.shift = shift
        self.settings = settings
        self._service = service
        self._noted: set[str] = set()

    @cached_property
    def draw(self) -> sampling.Draw:
        """The draw from the text's key, as a rule one object for all texts of that key."""
        return _draw(self.watermark)

    @cached_property
    def array_draw(self) -> sampling.ArrayDraw:
        """The same for NumPy arrays, where there is no torch."""
        return _array_draw(self.watermark)

    def row(self, position: int) -> int:
        """The key row of the token at a position, counted from the first new token."""
        n = self.watermark.key_length
        if position >= n:
            self.note(
                "key used again", f"a text is longer than the key's {n} rows: make a longer key"
            )
        return (self.shift + position) % n

    def unmarked(self, why: str) -> None:
        """Count a token that is served without the mark, and say so once for each text."""
        self._service.counts["unmarked tokens"] += 1
        self.note("texts with unmarked tokens", why)

    def note(self, count: str, why: str) -> None:
        """Count something of this text, and log it, once."""
        if count not in self._noted:
            self._noted.add(count)
            self._service.counts[count] += 1
            self._service.logger.warning("wmcore: %s: %s", count, why)


class Service:
    """The watermark of one server.

    Parameters
    ----------
    watermark : Watermark
    logger : str
        The name of the logger, so that the server's own settings show its lines.
    required : bool
        Refuse every request that would go unmarked: those that switch the watermark off, and greedy ones.

    Attributes
    ----------
    counts : Counter
        Of this process. Requests: "marked"; "off", "greedy" and what a `Sampling.otherwise` says; "refused";
        "overruled" (see `open_admitted`). Tokens: "unmarked tokens", and "texts with unmarked tokens" (the row had no
        distribution). Texts: "key used again".
    """

    def __init__(self, watermark: Watermark, logger: str, *, required: bool = False) -> None:
        self.watermark = watermark
        self.required = required
        self.logger = logging.getLogger(logger)
        self.counts: Counter[str] = Counter()

    def read(self, fields: Mapping[str, Any] | None) -> Wish:
        """`Wish.read` of a request to this server: an error is counted and logged."""
        with self._refusing():
            return Wish.read(fields)

    def admit(self, wish: Wish, settings: Sampling) -> bool:
        """Whether a request is marked. Raises WatermarkError if it may not be served as it asks."""
        with self._refusing():
            return self._admit(wish, settings)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except WatermarkError as error:
            self.counts["refused"] += 1
            self.logger.warning("wmcore: request refused: %s", error)
            raise

    def _admit(self, wish: Wish, settings: Sampling) -> bool:
        n = self.watermark.key_length
        if wish.shift is not None and not 0 <= wish.shift < n:
            raise WatermarkError(
                f"wmcore_shift {shown(wish.shift)} is outside 0 to {n - 1}, the rows of the key"
            )
        if wish.label is not None:
            self.watermark.key.derive(wish.label)  # a published key says that it has no sub-keys
        if wish.wanted is False and self.required:
            raise WatermarkError("wmcore is false, but this server watermarks every request")
        if wish.wanted is False:
            return False
        if settings.undrawn and (wish.wanted or self.required):
            greedy = settings.undrawn == "greedy"
            how = f"temperature {settings.temperature:g}" if greedy else settings.undrawn
            raise WatermarkError(
                f"{how} draws no token, so the text cannot be watermarked: ask for a draw (a higher temperature),"
                " or send wmcore false where that is allowed"
            )
        return not settings.undrawn

    def open(
        self,
        wish: Wish,
        settings: Sampling,
        *,
        seed: int | None = None,
        lot: str | None = None,
        name: str = "",
        resumed: bool = False,
    ) -> Stream | None:
        """A request's text begins: what draws its tokens, or None for one that is not marked.

        The first key row is the one that the request gives, else it follows from its seed, else from its lot, else
        it is random.

        Parameters
        ----------
        wish, settings
            Of the request; `admit` is asked again.
        seed : int, optional
            The request's own, so that it can be repeated.
        lot : str, optional
            A name that no other request has, the same in all processes that draw for it.
        name : str
            The request, for the log.
        resumed : bool
            The text goes on (after a preemption): it was counted and logged before.
        """
        if not self.admit(wish, settings):
            why = "off" if wish.wanted is False else settings.undrawn
            if not resumed:
                self.counts[why] += 1
                self.logger.info("wmcore: request %snot marked: %s", _spaced(name), why)
            return None
        shift = self.first_row(wish, seed, lot)
        mark = _labelled(self.watermark, wish.label)
        if not resumed:
            self.counts["marked"] += 1
            self.logger.info(
                "wmcore: request %smarked: key %s, scheme %s, shift hash %s",
                _spaced(name),
                mark.fingerprint,
                mark.scheme,
                shift_hash(mark, shift),
            )
        return Stream(self, mark, shift, settings)

    def open_admitted(
        self, fields: Mapping[str, Any] | None, settings: Sampling, **how: Any
    ) -> Stream | None:
        """`open` where a request can no longer be refused, because an error would end the server's engine.

        A request that should have been refused, and was let in by a front end that does not ask, gets the server's own
        mark at a row of the server's choice; without a draw it goes unmarked. Either is counted as "overruled".
        """
        try:
            wish = Wish.read(fields)
            self._admit(wish, settings)
        except WatermarkError as error:
            self.counts["overruled"] += 1
            self.logger.error("wmcore: a request came past its check and is overruled: %s", error)
            if settings.undrawn:
                self.counts[settings.undrawn] += 1
                return None
            wish = Wish()
        return self.open(wish, settings, **how)

    def first_row(self, wish: Wish, seed: int | None, lot: str | None) -> int:
        """The key row of a text's first token; see `open`."""
        n = self.watermark.key_length
        if wish.shift is not None:
            return wish.shift
        if seed is not None:
            return _number(f"seed {int(seed)}") % n
        if lot is not None:
            return _number(f"lot {lot}") % n
        return int.from_bytes(os.urandom(8), "little") % n

    def check_vocabulary(self, size: int | None, where: str) -> None:
        """Raise WatermarkError if a model has fewer logits than the watermark; None: not known."""
        if size is not None and size < self.watermark.vocab_size:
            raise WatermarkError(
                f"{where}: the watermark's vocab_size {self.watermark.vocab_size} exceeds the model's {size} logits;"
                " use the watermark made for this model"
            )


def installed(server: str, logger: str) -> Service | None:
    """The service that the environment sets up for a server, or None.

    WMCORE_<SERVER>_WATERMARK names the watermark file. WMCORE_<SERVER>_REQUIRED=1 refuses what would go unmarked.
    Raises WatermarkError for a variable of the server that is neither, or has a value that cannot be meant.
    """
    required_by = f"WMCORE_{server.upper()}_REQUIRED"
    known = {variable(server), required_by}
    for given in os.environ:
        if given.startswith(f"WMCORE_{server.upper()}_") and given not in known:
            raise WatermarkError(
                f"{given} is no variable of wmcore: use {' or '.join(sorted(known))}"
            )
    path = os.environ.get(variable(server))
    if path is not None and not path.strip():
        raise WatermarkError(
            f"{variable(server)} is empty: name a watermark file, or unset it to serve text without a watermark"
        )
    required = os.environ.get(required_by, "0")
    if required not in ("0", "1"):
        raise WatermarkError(f"{required_by} is {shown(required)}, but must be 0 or 1")
    if not path and required == "1":
        raise WatermarkError(f"{required_by} is 1, but {variable(server)} names no watermark file")
    return opened(path, logger, required == "1") if path else None


@cache
def opened(path: str, logger: str, required: bool) -> Service:
    """The service of a watermark file: one in a process, so that it has one set of counts."""
    service = Service(Watermark.load(path), logger, required=required)
    mark = service.watermark
    service.logger.info(
        "wmcore: this process marks with key %s, scheme %s, %d rows%s",
        mark.fingerprint,
        mark.scheme,
        mark.key_length,
        "; what would go unmarked is refused" if required else "",
    )
    return service


def variable(server: str) -> str:
    """The environment variable that names a server's watermark file."""
    return f"WMCORE_{server.upper()}_WATERMARK"


def admitted(service: Service | None, server: str, wish: Wish, settings: Sampling) -> bool:
    """`Service.admit`, also where there may be no service: then no request can be marked."""
    if service is not None:
        return service.admit(wish, settings)
    if wish.asks:
        raise WatermarkError(
            "wmcore: no watermark is set up on this server: start it with"
            f" {variable(server)} naming a watermark file"
        )
    return False


def force(
    logits: Any,
    rows: Sequence[int],
    streams: Sequence[Stream],
    positions: Sequence[int],
    *,
    order: str = SEQUENTIAL,
    histories: Sequence[tuple[Sequence[int], Sequence[int]] | None] | None = None,
) -> None:
    """Leave of given rows of logits only the token that each stream's key draws. In place.

    The row is truncated as the server would (`wmcore.truncate`), with what masks excluded still excluded; the token
    keeps its logit, the others become -inf. A row without a distribution is left alone and counted.

    Parameters
    ----------
    logits : torch float tensor [B, at least V]
    rows : sequence of int
        Rows of logits that are marked.
    streams : sequence of Stream
        Of each such row.
    positions : sequence of int
        How many new tokens each text has.
    order : str
        Of the truncations, see `truncated`.
    histories : sequence, optional
        (prompt, new tokens) of each text, where the server would penalise logits after this call; else None.
    """
    import torch

    index = torch.tensor(list(rows), device=logits.device)
    tokens = drawn(logits[index], streams, positions, order=order, histories=histories)
    at, tokens = index[tokens >= 0], tokens[tokens >= 0]
    kept = logits[at, tokens]
    logits[at] = -torch.inf
    logits[at, tokens] = kept


def drawn(
    logits: Any,
    streams: Sequence[Stream],
    positions: Sequence[int],
    *,
    order: str = SEQUENTIAL,
    histories: Sequence[tuple[Sequence[int], Sequence[int]] | None] | None = None,
    tempered: bool = False,
) -> Any:
    """The token that each stream's key draws, int64 [R] on the logits' device; -1 for a row without a distribution.

    logits, a float tensor [R, at least V], has one row for each stream, all of one service. tempered: they were divided
    by the temperature before. The rest is as for `force`; a row without a distribution is counted, and rows with
    penalties are changed.
    """
    import torch

    device = logits.device
    x = logits[:, : streams[0].watermark.vocab_size]
    for i, (stream, history) in enumerate(zip(streams, histories or (), strict=False)):
        one = stream.settings
        if history is not None and one.penalises:
            x[i] = penalised(
                x[i],
                *history,
                repetition=one.repetition,
                frequency=one.frequency,
                presence=one.presence,
            )

    def column(name: str, dtype: Any) -> Any:
        return torch.tensor(
            [getattr(s.settings, name) for s in streams], dtype=dtype, device=device
        )

    temperature = column("temperature", torch.float32)
    x = truncated(
        x,
        torch.ones_like(temperature) if tempered else temperature,
        torch.tensor([min(s.settings.top_k, x.shape[1]) for s in streams], device=device),
        column("top_p", torch.float32),
        column("min_p", torch.float32),
        order=order,
    )
    usable = x.amax(dim=-1).isfinite().tolist()
    key_rows = np.array([s.row(int(at)) for s, at in zip(streams, positions, strict=True)])
    for stream, whole in zip(streams, usable, strict=True):
        if not whole:
            stream.unmarked("a row of logits has no distribution (all masked, or NaN)")
    tokens = torch.full((len(streams),), -1, device=device)
    for draw in dict.fromkeys(stream.draw for stream in streams):
        members = np.array([i for i, s in enumerate(streams) if s.draw is draw and usable[i]], int)
        if not len(members):
            continue
        chosen = torch.from_numpy(members).to(device)
        tokens[chosen] = draw(x[chosen], key_rows[members], 1.0).to(device)
    return tokens


def shift_hash(watermark: Watermark, shift: int) -> str:
    """Twelve hexadecimal digits by which whoever holds the key can check a shift; to others they say nothing."""
    what = b"wmcore shift\x00" + str(shift).encode()
    return hmac.new(watermark.key.salt, what, hashlib.sha256).hexdigest()[:12]


def _ours(name: Any) -> bool:
    return isinstance(name, str) and name.lower().startswith("wmcore")


def _spaced(name: str) -> str:
    return f"{name} " if name else ""


def _number(what: str) -> int:
    return int.from_bytes(hashlib.sha256(f"wmcore {what}".encode()).digest()[:8], "little")


@lru_cache(maxsize=256)
def _labelled(watermark: Watermark, label: str | None) -> Watermark:
    if label is None:
        return watermark
    return replace(watermark, key=watermark.key.derive(label))


@lru_cache(maxsize=256)
def _draw(watermark: Watermark) -> sampling.Draw:
    return sampling.watermarked(watermark)


@lru_cache(maxsize=256)
def _array_draw(watermark: Watermark) -> sampling.ArrayDraw:
    return sampling.on_arrays(watermark)
