"""Who may ask, how much, and how much they are told: tiers, bearer tokens kept as hashes, rates.

Rates are kept in memory, by each worker for itself: with four workers a client may get up to four times the rate.
"""

import hashlib
import hmac
import ipaddress
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wmcore.service.refusals import Refused, too_busy

PREFIX = "sha256:"
"""Of a hash in the configuration."""
_CLIENTS = 100_000  # of whom a rate is remembered; beyond, the one that has not asked for longest is forgotten


@dataclass(frozen=True)
class Tier:
    """Those who are treated alike.

    Attributes
    ----------
    name : str
    tokens : tuple of str
        Hashes of their bearer tokens ("sha256:…"); none for the open tier, for all who give no token.
    texts_a_minute : int or None
        Most texts that one token, or one address of the open tier, may send in a minute; None for any number.
    coarse : bool
        Whether they get verdicts only, of `wmcore.verdict`.
    answer_after : float
        Seconds before which no answer is given: the time that a test takes depends on the key.
    """

    name: str
    tokens: tuple[str, ...] = ()
    texts_a_minute: int | None = None
    coarse: bool = False
    answer_after: float = 0.0

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return not self.tokens


@dataclass(frozen=True)
class Visitor:
    """Who asks: a tier, and by what their rate is counted."""

    tier: Tier
    counted_as: str


def new_token() -> tuple[str, str]:
    """A bearer token of 256 random bits, and its hash for the configuration."""
    token = f"wmcore_{secrets.token_urlsafe(32)}"
    return token, hashed(token)


def hashed(token: str) -> str:
    """What is kept of a token. It is random and long, so that a plain hash cannot be turned back."""
    return PREFIX + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Gate:
    """Finds a request's tier and counts its texts."""

    def __init__(self, tiers: Sequence[Tier], clock: Callable[[], float] = time.monotonic) -> None:
        self._tiers = tuple(tiers)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._clock = clock

    def admit(self, token: str | None, address: str | None) -> Visitor:
        """The visitor with this token, or without one from this address; Refused (401) if there is no such tier."""
        if token is None:
            for tier in self._tiers:
                if tier.open:
                    return Visitor(tier, f"{tier.name} {_network(address)}")
            raise _unknown("a token is needed")
        given, found = hashed(token), None
        for tier in self._tiers:  # all of them, whichever fits: the time tells nothing
            for kept in tier.tokens:
                if hmac.compare_digest(given, kept):
                    found = Visitor(tier, given)
        if found is None:
            raise _unknown("the token is not known")
        return found

    def count(self, visitor: Visitor, texts: int) -> None:
        """Take so many texts off what the visitor may send; Refused (429) if that is too many."""
        rate = visitor.tier.texts_a_minute
        if rate is None:
            return
        now = self._clock()
        left, since = self._buckets.pop(visitor.counted_as, (float(rate), now))
        left = min(float(rate), left + (now - since) * rate / 60)
        enough = texts <= left
        self._buckets[visitor.counted_as] = (left - texts if enough else left, now)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        if texts > rate:
            raise Refused(
                413,
                f"the request has {texts:,} texts, but {rate:,} a minute are allowed",
                limit=rate,
                remedy="send fewer at a time",
            )
        if not enough:
            wait = math.ceil((texts - left) * 60 / rate)
            raise too_busy(f"more than {rate:,} texts in a minute", wait, limit=rate)


def _unknown(message: str) -> Refused:
    return Refused(
        401,
        message,
        parameter="Authorization",
        remedy="send the header 'Authorization: Bearer TOKEN' with a token that the operator gave you",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _network(address: str | None) -> str:
    """An address; of IPv6 the first 64 bits, as one client has all that begin so."""
    try:
        known = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    known = getattr(known, "ipv4_mapped", None) or known  # as a socket for both has those of IPv4
    if known.version == 4:
        return str(known)
    return str(ipaddress.ip_network((int(known), 64), strict=False).network_address)
