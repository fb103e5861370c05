"""ATTACKS: what is done to texts before they are tested. A new one is an entry here, or a ``module:function``."""

import hashlib
import importlib
import inspect
import sys
from functools import cache

from wmcore.errors import WatermarkError, reason
from wmcore.paper import edits, translate
from wmcore.paper.contract import Attack
from wmcore.paper.rewrite import rewriter
from wmcore.paper.synonyms import synonyms

ATTACKS: dict[str, Attack] = {
    "none": Attack("as written"),
    "substitute": Attack("substitutions", tokens=edits.substitution),
    "insert": Attack("insertions", tokens=edits.insertion),
    "delete": Attack("deletions", tokens=edits.deletion),
    "damage": Attack("mixed edits", tokens=edits.mixture),
    "synonyms-50": Attack("synonyms, half", texts=synonyms(0.5)),
    "synonyms-100": Attack("synonyms, all", texts=synonyms(1.0)),
    "rewrite": Attack("rewritten", texts=rewriter()),
    "french": Attack("via French", texts=translate.round_trip(*translate.FRENCH)),
    "russian": Attack("via Russian", texts=translate.round_trip(*translate.RUSSIAN)),
}


BUILT_IN = frozenset(ATTACKS)
"""Those that are known by their names; others by the module that added them, too."""


class Unavailable(WatermarkError):
    """An attack on texts that cannot be run here, or that failed: the rest of an experiment goes on without it."""


@cache
def attack_of(name: str) -> Attack:
    """The attack of this name; of ``module:function`` that function: (list of texts, seed) to as many texts.

    Raises WatermarkError for a name that is neither.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise WatermarkError(
            f"attack {name!r} is not known: use one of {', '.join(ATTACKS)}, or module:function"
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever a user's module raises
        raise WatermarkError(
            f"attack {name!r}: it cannot be imported ({reason(error)}); run where python finds it, or set PYTHONPATH"
        ) from None
    if not callable(found):
        raise WatermarkError(
            f"attack {name!r} is a {type(found).__name__}: name a function of (list of texts, seed)"
        )
    return Attack(function.replace("_", " "), texts=found)


def attack_identity(name: str) -> str:
    """The name of an attack; of a ``module:function`` with a hash of the module, so that a new version attacks anew."""
    if name in ATTACKS:
        return name
    attack_of(name)
    module = sys.modules[name.partition(":")[0]]
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return name
    return f"{name} {hashlib.sha256(source.encode()).hexdigest()[:12]}"


def attacked(name: str, texts: list[str], seed: int) -> list[str]:
    """The texts after an attack on texts.

    Raises
    ------
    Unavailable
        If it edits tokens, raises anything, or does not give a text for each.
    """
    why = _failure(name)
    if why is not None:
        raise Unavailable(why)
    if not texts:  # beyond the end of a source: nothing that a user's function should have to bear
        return []
    return _attacked(name, texts, seed)


@cache
def _failure(name: str) -> str | None:
    """Why an attack cannot be run here, found by running it on one text, once a process; or None."""
    try:
        _attacked(name, ["The weather was fine."], 1)
    except Unavailable as error:
        return str(error)
    return None


def _attacked(name: str, texts: list[str], seed: int) -> list[str]:
    change = attack_of(name).texts
    if change is None:
        raise Unavailable(f"attack {name!r} edits tokens, not texts: use another")
    try:
        made = list(change(texts, seed))
    except WatermarkError as error:
        raise Unavailable(str(error)) from None
    except Exception as error:  # whatever a user's function raises
        raise Unavailable(
            f"attack {name!r} failed with {type(error).__name__} ({reason(error)}): mend it and run again"
        ) from error
    if len(made) != len(texts):
        raise Unavailable(
            f"attack {name!r} gave {len(made)} texts for {len(texts)}: it must give one for each"
        )
    for one in made:
        if not isinstance(one, str):
            raise Unavailable(
                f"attack {name!r} gave a {type(one).__name__} for a text: it must give strings"
            )
    return made
