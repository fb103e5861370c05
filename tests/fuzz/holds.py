"""What must hold whatever the input is."""

import re
from contextlib import contextmanager

import pytest

from wmcore import WatermarkError

LONGEST = 2000
"""Characters of a message; a document's id may be longer."""


def is_plain(message, *secrets):
    """A message is one line of at least a word, not endless, and has nothing of a secret in it."""
    assert re.search(r"\w", message), message
    assert "\n" not in message.strip("\n"), message
    assert len(message) <= LONGEST, message[:LONGEST]
    keeps(message, *secrets)


def is_harmless(text):
    """Nothing in a text, but for ends of lines, could steer a terminal or turn the direction of writing."""
    found = re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", text)
    assert found is None, text[:500]


def keeps(text, *secrets):
    """No twelve digits of a secret in a row are in a text."""
    lower = text.lower()
    for secret in secrets:
        for i in range(0, len(secret) - 11):
            assert secret[i : i + 12] not in lower, f"secret in {text[:500]!r}"


@contextmanager
def only_refusals(*secrets):
    """The block ends well, or with a WatermarkError or TypeError whose message is plain."""
    try:
        yield
    except (WatermarkError, TypeError) as error:
        is_plain(str(error), *secrets)


def refused(call, *secrets):
    """The message with which a call is refused."""
    with pytest.raises((WatermarkError, TypeError)) as caught:
        call()
    is_plain(str(caught.value), *secrets)
    return str(caught.value)
