"""Shared by the tests of real servers. Each server has an environment of its own: nothing of one is imported here."""

import pytest


@pytest.fixture(scope="session")
def folder():
    """SmolLM2 as a folder of transformers."""
    import smollm2

    return smollm2.folder()
