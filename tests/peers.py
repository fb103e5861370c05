"""Peers for tests that compare with them: only what is already on the machine, named in the environment.

PEERS=path[:path...] names checkouts of the published code and of MarkLLM; WMCORE_VLLM=path names a folder of unpacked
vLLM wheels, WMCORE_DYNAMO=path an unpacked ai-dynamo wheel. Nothing is fetched. Tests without their peer are skipped.
"""

import os
from pathlib import Path

import pytest


def checkout(marker):
    """The first folder of PEERS that holds the file `marker`, or None."""
    for path in filter(None, os.environ.get("PEERS", "").split(os.pathsep)):
        if (Path(path) / marker).exists():
            return Path(path)
    return None


PUBLISHED = checkout("watermarking/detection.py")
MARKLLM = checkout("watermark/auto_watermark.py")
needs_published = pytest.mark.skipif(PUBLISHED is None, reason="PEERS names no published checkout")
needs_markllm = pytest.mark.skipif(MARKLLM is None, reason="PEERS names no MarkLLM checkout")


def wheels():
    """Folders of unpacked vLLM wheels, newest last."""
    root = os.environ.get("WMCORE_VLLM")
    found = [] if not root else sorted(p.parent for p in Path(root).rglob("vllm/v1") if p.is_dir())
    return [path.parent for path in found]


def dynamo():
    """Dynamo's adapter for TensorRT-LLM in an unpacked wheel, or None."""
    root = os.environ.get("WMCORE_DYNAMO")
    path = Path(root or "") / "dynamo/trtllm/logits_processing/adapter.py"
    return path if root and path.exists() else None
