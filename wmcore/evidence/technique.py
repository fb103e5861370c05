"""What a report says whatever was tested: how the technique works, and what no test shows."""

from wmcore.evidence.record import Fact, Section
from wmcore.schemes import EDIT, FREE, LOCAL, PLAIN, Scheme

REFERENCE = (
    "Rohith Kuditipudi, John Thickstun, Tatsunori Hashimoto, Percy Liang: Robust Distortion-free Watermarks for "
    "Language Models. Transactions on Machine Learning Research, 2024. arXiv:2307.15593"
)
_SAMPLERS = {"exp": "exponential minimum sampling", "its": "inverse transform sampling"}
_ALIGNMENTS = {
    PLAIN: ("alignment without edits", "as in the paper"),
    EDIT: ("alignment with insertions and deletions", "as in the paper"),
    FREE: (
        "best sum of scores of the whole text against any stretch of the key, with insertions and deletions",
        "wmcore's own, docs/detection.md",
    ),
    LOCAL: (
        "best sum of scores of any passage against any stretch of the key, with insertions and deletions",
        "wmcore's own, docs/detection.md",
    ),
}

BY_CONSTRUCTION = (
    "By construction of the test, of texts that do not depend on the key a share of at most a has p ≤ a, over the "
    "choice of key."
)

LIMITS = [
    "p is how often, at most, a text that has nothing to do with the key matches it this well. It is not the "
    "probability that a machine wrote the text, nor that the text is ours.",
    "Absence proves nothing. A text in which no watermark is found may be ours all the same: short, edited, "
    "paraphrased, translated, or of words so certain that they leave no room for a mark. It may as well come from a "
    "model without this watermark, or with another key.",
    "A match does not say who published a text, whether all of it is a machine's, or whether it is true. A quoted or "
    "edited watermarked text still matches.",
    "Texts can be forged to match: by those who hold the key, who may question a detector at will, or who collect very "
    "many marked texts. The false-alarm figures count texts that do not depend on the key, and none that were "
    "made to match it.",
    "Figures are of the texts, the key and the settings of this run. Other languages, kinds of text, lengths, models "
    "and temperatures can give others.",
    "This report is no certificate, no legal advice and no compliance programme. It says what was run and what came "
    "out; whether a law's demands are met is for others to judge.",
    "The SHA-256 values tie the report to its files. They do not show that the files are genuine, or when they were "
    "made: the dates are those of the clocks of the machines.",
]
"""What no report of this kind shows."""


def technique(scheme: Scheme, key_length: object) -> Section:
    """How text of this scheme is written and tested."""
    rows = f"{key_length:,} rows" if isinstance(key_length, int) else "as many rows as it has"
    sampler = _SAMPLERS[scheme.sampler]
    how, source = _ALIGNMENTS[scheme.alignment]
    says = [
        "While a language model writes, each next token is drawn with numbers from a secret key sequence instead "
        f"of fresh random ones ({sampler}). Over the choice of key, a text that uses no row of the sequence twice has "
        f"the same law as without the watermark; this one has {rows}.",
        "Nothing is added to the text. Whoever holds the key can lay a text along the sequence and see that it fits "
        "better than chance allows, also after some edits. That takes the key, the model's tokenizer and the "
        "text, not the model or the prompt.",
        "p comes from the same comparison with keys drawn anew, or is a proven bound of what that would give. Of texts "
        "that do not depend on the key, a share of at most a has p ≤ a, over the choice of key. The test rests on the "
        "key being secret and drawn at random, and on nothing that is assumed of language.",
    ]
    facts = [
        Fact("family", "technique", "watermark by sampling with a key sequence (text)"),
        Fact("sampler", "how text is written", sampler),
        Fact("statistic", "how text is tested", f"{how} ({source})"),
        Fact("reference", "reference", REFERENCE),
    ]
    return Section(says, facts)
