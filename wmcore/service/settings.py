"""How the service is set: a TOML file, overruled by the command's options; JSON between the processes of one service.

Neither holds a secret: watermarks are named by their files, tokens of access by their hashes.
"""

import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from wmcore import watermark_file
from wmcore.checks import real_number, string, truth, whole_number
from wmcore.detection import LEVEL
from wmcore.errors import WatermarkError, reason, shown
from wmcore.schemes import scheme_of
from wmcore.service.access import PREFIX, Tier
from wmcore.types import SchemeName

METRICS = ("local", "all", "off")
"""Who gets /metrics: those on this machine, anybody, nobody."""
_MOST = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """What a request may ask for, and how many may wait.

    Attributes
    ----------
    body_bytes : int
    texts : int
        In a request.
    tokens : int
        In a text.
    seconds : float
        For a request: to send it, and again to be answered.
    waiting : int
        Requests of a worker that wait for their turn.
    connections : int
        Of a worker.
    """

    body_bytes: int = 1_000_000
    texts: int = 64
    tokens: int = 20_000
    seconds: float = 30.0
    waiting: int = 16
    connections: int = 256

    def __post_init__(self) -> None:
        for one in fields(self):
            if one.name == "seconds":
                real_number("limits.seconds", self.seconds, 0.01, 3600)
            else:
                least = 0 if one.name == "waiting" else 1
                whole_number(f"limits.{one.name}", getattr(self, one.name), least, _MOST)


OPEN = Tier("open")
"""The only tier where none is set: anybody, with full answers."""


@dataclass(frozen=True)
class Settings:
    """All that a worker needs to know.

    Attributes
    ----------
    watermarks : tuple of str
        Their files; an answer calls a watermark by the name of its file without ``.json``.
    level : float
        The largest p of a text that is found.
    tokenizer : str or None
        In place of the watermarks' own.
    scheme : str or None
        How to test, where not as the watermarks say.
    threads : int or None
        CPU threads of a worker.
    only_local : bool
        Whether full answers without a token are for users of this machine alone: see `for_host`.
    limits : Limits
    tiers : tuple of Tier
    metrics : str
        One of `METRICS`.
    operator, contact : str
        Who answers for the service, as the page says it; empty for nobody.
    """

    watermarks: tuple[str, ...]
    level: float = LEVEL
    tokenizer: str | None = None
    scheme: SchemeName | None = None
    threads: int | None = None
    only_local: bool = False
    limits: Limits = field(default_factory=Limits)
    tiers: tuple[Tier, ...] = (OPEN,)
    metrics: str = "local"
    operator: str = ""
    contact: str = ""

    def __post_init__(self) -> None:
        real_number("level", self.level, 0, 1)
        if self.metrics not in METRICS:
            raise WatermarkError(
                f"metrics is {shown(self.metrics)}, but must be one of {', '.join(METRICS)}"
            )
        if self.threads is not None:
            whole_number("threads", self.threads, 1, _MOST)
        if self.tokenizer is not None:
            string("tokenizer", self.tokenizer)
        if self.scheme is not None:
            scheme_of(self.scheme)
        string("operator", self.operator)
        string("contact", self.contact)
        opened = [tier.name for tier in self.tiers if tier.open]
        if len(opened) > 1:
            raise WatermarkError(
                f"tiers {' and '.join(opened)} have no tokens, but one open tier is the most: give the others tokens"
            )
        owners: dict[str, str] = {}
        for tier in self.tiers:
            for kept in tier.tokens:
                if kept in owners:
                    raise WatermarkError(
                        f"tiers.{tier.name}.tokens has a hash that stands in tiers.{owners[kept]}, too: leave one out"
                    )
                owners[kept] = tier.name

    @property
    def names(self) -> dict[str, str]:
        """The watermark files by the names that answers use; WatermarkError if two have one name."""
        found: dict[str, str] = {}
        for path in self.watermarks:
            name = Path(path).stem
            if name in found:
                raise WatermarkError(
                    f"watermarks {found[name]} and {path} would both be called {name!r}: rename one file"
                )
            found[name] = path
        return found

    @property
    def open_in_full(self) -> bool:
        """Whether full answers are given to anybody."""
        return any(tier.open and not tier.coarse for tier in self.tiers)

    def to_json(self) -> str:
        """For `from_json` in another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """What `to_json` wrote."""
        given = json.loads(text)
        given["limits"] = Limits(**given["limits"])
        given["tiers"] = tuple(
            Tier(**{**tier, "tokens": tuple(tier["tokens"])}) for tier in given["tiers"]
        )
        given["watermarks"] = tuple(given["watermarks"])
        return cls(**given)


def settings_of(
    path: str | None, options: Mapping[str, Any], limits: Mapping[str, Any]
) -> Settings:
    """The settings of a TOML file, if there is one, overruled by the options and limits that are not None.

    Raises WatermarkError, which names the file and the setting, for what cannot be used.
    """
    given = {} if path is None else _read(path)
    try:
        known = {one.name for one in fields(Settings)} - {"only_local"}
        _known("settings", given, known)
        given.update({name: value for name, value in options.items() if value is not None})
        within = _table("limits", given.pop("limits", {}))
        _known("limits", within, {one.name for one in fields(Limits)})
        within = {**within, **{k: v for k, v in limits.items() if v is not None}}
        tiers = _table("tiers", given.pop("tiers", {}))
        paths = given.pop("watermarks", [])
        if not isinstance(paths, (list, tuple)) or not all(isinstance(one, str) for one in paths):
            raise WatermarkError("watermarks must be a list of files and folders")
        if not paths:
            raise WatermarkError("no watermark is given: give -w FILE, or watermarks in --config")
        return Settings(
            watermarks=tuple(str(one.resolve()) for one in watermark_file.files(paths)),
            limits=Limits(**within),
            tiers=tuple(_tier(name, tier) for name, tier in tiers.items()) or (OPEN,),
            **given,
        )
    except WatermarkError as error:
        raise error if path is None else WatermarkError(f"{path}: {error}") from None


def for_host(settings: Settings, host: str, open_to_all: bool) -> Settings:
    """The settings of a service on this host, so that strangers get full answers only if somebody said so.

    Raises WatermarkError for a host that they reach. On one that they do not, `only_local` is set: a reverse proxy,
    or a page of another site in a browser of this machine, could still bring them in.
    """
    if open_to_all or not settings.open_in_full:
        return settings
    if not is_local(host):
        raise WatermarkError(
            f"--host {host}: anybody who reaches it would get full answers, which help to forge and remove the "
            "watermark: set tiers in --config (a coarse one for all, tokens for experts), or say --open-to-all"
        )
    return replace(settings, only_local=True)


def is_local(address: str | None) -> bool:
    """Whether an address or host is this machine alone."""
    if address == "localhost":
        return True
    try:
        known = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    return (getattr(known, "ipv4_mapped", None) or known).is_loopback


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        told = getattr(error, "strerror", None) or reason(error)
        raise WatermarkError(f"--config {path}: it cannot be read as TOML ({told})") from None
    paths = found.get("watermarks")
    if isinstance(paths, list):  # named from where the file is
        folder = Path(path).parent
        found["watermarks"] = [
            os.path.join(folder, one) if isinstance(one, str) else one for one in paths
        ]
    return found


def _tier(name: str, given: Any) -> Tier:
    """A tier of the file, checked."""
    given = _table(f"tiers.{name}", given)
    _known(f"tiers.{name}", given, {one.name for one in fields(Tier)} - {"name"})
    hashes = given.get("tokens", [])
    if not isinstance(hashes, list) or ("tokens" in given and not hashes):
        raise WatermarkError(
            f"tiers.{name}.tokens must be a list of hashes: make one with wmcore serve --new-token, or leave tokens "
            "out for a tier that is open to all"
        )
    for number, one in enumerate(hashes):
        if not isinstance(one, str) or not re.fullmatch(f"{PREFIX}[0-9a-f]{{64}}", one):
            raise WatermarkError(  # without the value: it could be the token itself
                f"tiers.{name}.tokens[{number}] is no hash ({PREFIX} and 64 hexadecimal digits): make one with "
                "wmcore serve --new-token"
            )
    rate = given.get("texts_a_minute")
    if rate is not None:
        whole_number(f"tiers.{name}.texts_a_minute", rate, 1, _MOST)
    tier = Tier(name)
    return replace(
        tier,
        tokens=tuple(hashes),
        texts_a_minute=rate,
        coarse=truth(f"tiers.{name}.coarse", given.get("coarse", False)),
        answer_after=real_number(
            f"tiers.{name}.answer_after", given.get("answer_after", 0.0), 0, 600
        ),
    )


def _table(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise WatermarkError(f"{name} must be a table: write [{name}] before its lines")
    return given


def _known(name: str, given: Mapping[str, Any], names: Sequence[str] | set[str]) -> None:
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise WatermarkError(
            f"{name} has {shown(unknown[0])}, which is not known: use some of {', '.join(sorted(names))}"
        )
