"""What the service says in sentences: technique, meaning of a verdict, how p is corrected."""

TECHNIQUE = (
    "A watermark in the choice of words: each token was drawn with numbers of a secret key, which leaves the "
    "probabilities of the language model as they are. The test aligns a text with the key and compares the fit with "
    "that of other keys. Kuditipudi et al., Robust Distortion-free Watermarks for Language Models, arXiv:2307.15593."
)
PAPER = "https://arxiv.org/abs/2307.15593"
NOT_FOUND_MEANS = (
    "Not found does not say that the text carries no watermark: it may be too short, edited too much, or of words that "
    "left no choice."
)


def one_in(level: float) -> str:
    """A level in words: one in 1,000; about one in 33."""
    many = 1 / level
    about = "" if abs(many - round(many)) < 1e-6 * many else "about "
    return f"{about}one in {round(many):,}"


def false_alarm(level: float, count: int) -> str:
    """How often a text is found at a level without any of so many watermarks."""
    which = "this watermark" if count == 1 else f"any of these {count:,} watermarks"
    return f"{one_in(level)} texts without {which} would fit as well"


def meaning(level: float, count: int) -> str:
    """What found means at a level, with so many watermarks tried."""
    return f"Found (p <= {level:g}): {false_alarm(level, count)}. It does not say who wrote the text. {NOT_FOUND_MEANS}"
