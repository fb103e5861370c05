"""Counts for Prometheus: requests, texts by verdict, tokens, seconds. Never anything of a text.

With several workers `PROMETHEUS_MULTIPROC_DIR` names the folder in which they add up: `wmcore serve` sets it.
"""

import os

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counts of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = {"registry": self._registry}
        self.requests = Counter(
            "wmcore_requests", "Requests answered", ["path", "status", "tier"], **own
        )
        self.seconds = Histogram(
            "wmcore_request_seconds", "Time to an answer", ["path"], buckets=_SECONDS, **own
        )
        self.texts = Counter("wmcore_texts", "Texts answered", ["verdict"], **own)
        self.tokens = Counter("wmcore_tokens", "Tokens of these texts", **own)

    def page(self) -> bytes:
        """All counts, of all workers, in the text format of Prometheus."""
        registry = self._registry
        if os.environ.get(FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)
