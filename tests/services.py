"""Shared by the tests of the service: small watermarks, texts that carry them, an application."""

import json
from contextlib import contextmanager

from fastapi.testclient import TestClient
from test_scored import marked

from wmcore import Key, Watermark
from wmcore.service.app import create_app
from wmcore.service.settings import Settings

V = 128


def watermark(number=1, **settings):
    """A small watermark of the default scheme; another key for each number."""
    settings = {"vocab_size": V, "key_length": 40, **settings}
    return Watermark.create(key=Key(bytes([number]) * 32), **settings)


def text_of(mark, length=60, shift=5):
    """Token ids that carry a watermark."""
    return marked(mark, length, shift).tolist()


def letters_of(tokens):
    """The text whose tokens these are, to the tokenizer `commands.Letters`."""
    return "".join(map(chr, tokens))


def files(folder, *marks, tokenizer=None):
    """Saves watermarks as a.json, b.json, …; gives their paths."""
    paths = []
    for name, mark in zip("abcdefgh", marks, strict=False):
        path = folder / f"{name}.json"
        mark.save(path)
        if tokenizer is not None:
            document = json.loads(path.read_text())
            path.write_text(json.dumps({**document, "tokenizer": str(tokenizer)}))
        paths.append(str(path))
    return tuple(paths)


@contextmanager
def client(folder, *marks, tokenizer=None, **settings):
    """A client of an application with these watermarks and settings."""
    paths = files(folder, *(marks or [watermark()]), tokenizer=tokenizer)
    with TestClient(create_app(Settings(paths, **settings))) as found:
        yield found


def detect(found, contents, name="tokens", **options):
    """The answer to a request of the API."""
    return found.post("/v1/detect", json={name: contents}, **options)
