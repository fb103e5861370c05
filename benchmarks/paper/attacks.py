"""ATTACKS: what is done to texts before they are tested. A new one is an entry here, or a ``module:function``."""

import hashlib
import importlib
import inspect
from functools import cache

from wmcore.errors import WatermarkError
from wmcore.paper.contract import Attack

ATTACKS: dict[str, Attack] = {
    "none": Attack("as written"),
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
