"""Words replaced by synonyms from WordNet: a `TextAttack`."""

import re
import zlib
from pathlib import Path

import numpy as np

from wmcore.checks import real_number
from wmcore.paper.contract import TextAttack
from wmcore.paper.wordnet import WordNet, wordnet

_KEPT = (
    "about above across after against all along also although among and any anything are around because been"
    " before behind being below between both but can could dare did does doing done down during each either else"
    " even ever every everything few for from had has have having hence her here hers him his how however its just"
    " less like many may might mine more most much must near need neither never next nor not nothing now off once"
    " one only onto other ought out over own past per same several shall she should since some something still such"
    " than that the their them then there these they this those though through thus till too toward towards under"
    " unless until upon very was were what when where whether which while who whom whose why will with within"
    " without would yet you your"
)
KEPT = frozenset(_KEPT.split())
"""Words of grammar and quantity: WordNet knows many of them only as something else ("will" is its noun)."""

_WORD = re.compile(r"(?<!\w)(?<!\w['’-])[A-Za-z]{3,}(?!\w|['’-]\w)")


def synonyms(rate: float, folder: str | Path | None = None) -> TextAttack:
    """A function (texts, seed) -> texts that replaces a share of the replaceable words by synonyms.

    A word of at least three letters is replaceable if its most frequent sense in WordNet has another single word; words
    of grammar (KEPT), names (capitals within a sentence) and parts of compounds are not. Each replaced word gets any
    synonym of that sense, equally likely, in its form and its capitals; spaces and punctuation stay. round(rate * n) of
    a text's n replaceable words are drawn, from the seed and the text alone. Senses are not told apart by context,
    "a" does not become "an", compared adjectives stay, and forms follow rules where WordNet lists no exception.

    Parameters
    ----------
    rate
        From 0 to 1.
    folder
        Of WordNet's dictionary files. None looks for them, see `wmcore.paper.wordnet.wordnet`.

    Raises
    ------
    WatermarkError
        At once for a rate out of range; when called, for a dictionary that is nowhere or cannot be read.
    """
    rate = real_number("rate", rate, 0, 1)

    def replace(texts: list[str], seed: int) -> list[str]:
        dictionary = wordnet(folder)
        return [_replaced(text, rate, seed, dictionary) for text in texts]

    return replace


def _replaced(text: str, rate: float, seed: int, dictionary: WordNet) -> str:
    found = [(match, _choices(text, match, dictionary)) for match in _WORD.finditer(text)]
    found = [(match, choices) for match, choices in found if choices]
    rng = np.random.default_rng([seed, zlib.crc32(text.encode("utf-8", "surrogatepass"))])
    chosen = rng.permutation(len(found))[: round(rate * len(found))]
    result, end = [], 0
    for place in sorted(chosen):
        match, choices = found[place]
        word = choices[rng.integers(len(choices))]
        capital = match[0][0].isupper()
        result += [text[end : match.start()], word.capitalize() if capital else word]
        end = match.end()
    return "".join(result) + text[end:]


def _choices(text: str, match: re.Match[str], dictionary: WordNet) -> tuple[str, ...]:
    """What may take the word's place."""
    word = match[0]
    if word.lower() in KEPT:
        return ()
    if not word.islower():
        before = text[max(0, match.start() - 8) : match.start()].rstrip(" \"'“‘([")
        if not word.istitle() or (before and before[-1] not in ".!?\n"):
            return ()
    return dictionary.synonyms(word.lower())
