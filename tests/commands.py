"""Shared by the tests of the command."""

import json
import re

V = 128


class Letters:
    """A tokenizer of one ASCII character a token."""

    size = V

    def __len__(self):
        return self.size

    def encode(self, text, add_special_tokens=False):
        return [ord(c) % V for c in text]

    def __call__(self, text, add_special_tokens=False, **_):
        if isinstance(text, str):
            return {"input_ids": self.encode(text)}
        return {"input_ids": [self.encode(t) for t in text]}

    def decode(self, tokens, **_):
        return "".join(map(chr, tokens))


def one_line(result, pattern):
    """The result is exit code 2 and one line that fits the pattern."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert re.search(pattern, err), err


def rows(out):
    return [json.loads(line) for line in out.splitlines()]
