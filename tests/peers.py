"""Peers for tests that compare with them: only what is already on the machine, named in the environment.

PEERS=path[:path...] names checkouts of the published code and of MarkLLM; WMCORE_VLLM=path names a folder of unpacked
vLLM wheels, WMCORE_SGLANG=path an unpacked SGLang wheel, WMCORE_DYNAMO=path an unpacked ai-dynamo wheel. Nothing is
fetched. Tests without their peer are skipped.
"""

import dataclasses
import importlib.util
import os
import sys
import types
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


def unavailable(reason):
    """The end of a test for want of a tool that the tests' extra brings: a failure on CI, a skip for a user."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def wheels():
    """Folders of unpacked vLLM wheels, newest last."""
    root = os.environ.get("WMCORE_VLLM")
    found = [] if not root else sorted(p.parent for p in Path(root).rglob("vllm/v1") if p.is_dir())
    return [path.parent for path in found]


def sglang_wheel():
    """The folder of an unpacked SGLang wheel, or None."""
    root = os.environ.get("WMCORE_SGLANG")
    return Path(root) if root else None


def sglang_watermarking():
    """SGLang's own watermarking package, which needs nothing else of SGLang, or None."""
    root = sglang_wheel()
    if root is None:
        return None
    if importlib.util.find_spec("msgspec") is None:
        sys.modules["msgspec"] = types.SimpleNamespace(Struct=_Struct)
    folder = root / "sglang/srt/sampling/watermarking"
    spec = importlib.util.spec_from_file_location("sglang_watermarking", folder / "__init__.py")
    package = sys.modules["sglang_watermarking"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


class _Struct:
    """As much of msgspec's as SGLang's detector needs."""

    def __init_subclass__(cls, **settings):
        dataclasses.dataclass(**settings)(cls)


def dynamo():
    """Dynamo's adapter for TensorRT-LLM in an unpacked wheel, or None."""
    root = os.environ.get("WMCORE_DYNAMO")
    path = Path(root or "") / "dynamo/trtllm/logits_processing/adapter.py"
    return path if root and path.exists() else None
