"""The page of ``wmcore detect --html``: one's own texts, each token coloured by how well it fits the key."""

from collections.abc import Sequence
from typing import Any

from wmcore import token_page, whole_file
from wmcore.cli.output import check_output
from wmcore.detect import Detector
from wmcore.detection import Detection
from wmcore.locate import Span

MOST_TEXTS = 100
MOST_TOKENS = 200_000
"""A page with more is too large for a browser."""


class TextPage:
    """A page that is filled with texts and then written, whole or not at all.

    Parameters
    ----------
    path : str
        Of the page. WatermarkError if there is such a file, unless `force`, or no folder to put it in.
    detector : Detector
    tokenizer
        What turns token ids back into words.
    level : float
        The largest p of a text that counts as found.
    """

    def __init__(
        self, path: str, detector: Detector, tokenizer: Any, *, level: float, force: bool
    ) -> None:
        self._path = path
        self._detector = detector
        self._tokenizer = tokenizer
        self._level = level
        self._force = force
        self._examples: list[token_page.Example] = []
        self._tokens = 0
        self._found = 0
        self.left_out = 0
        """Texts that the page has no room for."""
        check_output(path, force, "--html")

    def add(self, name: str, text: Any, detection: Detection, spans: Sequence[Span]) -> None:
        """Add a text, its detection, made with ``alignment=True``, and its passages."""
        length = detection.length or 0
        if len(self._examples) == MOST_TEXTS or self._tokens + length > MOST_TOKENS:
            self.left_out += 1
            return
        tokens: list[int] = []
        if detection.error is None:
            read = self._detector.read([text])
            tokens = [*read.arrays, *read.long.values()][0].tolist()
        self._tokens += length
        self._found += detection.found(self._level) is True
        shown = token_page.passage(
            "",
            self._detector.statistic.scheme.name,
            self._tokenizer,
            tokens,
            detection,
            spans,
            threshold=self._level,
        )
        self._examples.append(token_page.Example(name, [shown]))

    def write(self) -> None:
        """Write the page; WatermarkError if a file of this name has come up meanwhile, unless `force`."""
        count = len(self._examples)
        s = "" if count == 1 else "s"
        summary = f"Found, with p ≤ {self._level:g}, in {self._found} of {count} text{s}."
        title = f"Watermark {self._detector.watermark.fingerprint} in {count} text{s}"
        section = token_page.Section(self._detector.statistic.scheme.name, summary, self._examples)
        page = token_page.render(title, [section])
        check_output(self._path, self._force, "--html")
        # Which key row a token met is no stranger's business.
        whole_file.write(self._path, page.encode(), private=True)
