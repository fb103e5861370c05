"""ATTACKS: what is done to texts before they are tested. A new one is an entry here, or a ``module:function``."""

import hashlib
import importlib
import inspect
from functools import cache

from wmcore.errors import WatermarkError
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
    except (ImportError, AttributeError) as error:
        raise WatermarkError(
            f"attack {name!r}: it cannot be imported ({error}); run where python finds it, or set PYTHONPATH"
        ) from None
    return Attack(function.replace("_", " "), texts=found)


def attack_identity(name: str) -> str:
    """The name of an attack; of a user's function with a hash of its source, so that a new version attacks anew."""
    if name in ATTACKS:
        return name
    function = attack_of(name).texts
    try:
        source = inspect.getsource(inspect.unwrap(function))  # type: ignore[arg-type]
    except (OSError, TypeError):
        return name
    return f"{name} {hashlib.sha256(source.encode()).hexdigest()[:12]}"


@cache
def failure(name: str) -> str | None:
    """Why an attack on texts cannot be run here, found by running it on one text; or None."""
    change = attack_of(name).texts
    if change is None:
        return f"attack {name!r} edits tokens, not texts: use another"
    try:
        change(["The weather was fine."], 1)
    except WatermarkError as error:
        return str(error)
    return None
