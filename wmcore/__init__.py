"""Watermarks for language models that leave the text's distribution unchanged, found after edits.

The engine behind both sides of *Robust Distortion-free Watermarks for Language Models* (Kuditipudi,
Thickstun, Hashimoto and Liang, arXiv 2307.15593): `generate` draws a model's tokens from a secret
key sequence, and `Detector` aligns a text to that sequence and gives an exact p-value.

Names load when first used, so ``import wmcore`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from wmcore._version import __version__

if TYPE_CHECKING:
    from wmcore.detect import Detection, Detector
    from wmcore.errors import WatermarkError
    from wmcore.generation import Generation, generate
    from wmcore.key import Key, PublishedKey
    from wmcore.power.sampled import SampledText
    from wmcore.power.simulation import DetectionPower, detection_power
    from wmcore.schemes import SCHEMES
    from wmcore.watermark import Watermark

_HOME = {
    "Detection": "wmcore.detect",
    "DetectionPower": "wmcore.power.simulation",
    "Detector": "wmcore.detect",
    "Generation": "wmcore.generation",
    "Key": "wmcore.key",
    "PublishedKey": "wmcore.key",
    "SCHEMES": "wmcore.schemes",
    "SampledText": "wmcore.power.sampled",
    "Watermark": "wmcore.watermark",
    "WatermarkError": "wmcore.errors",
    "detection_power": "wmcore.power.simulation",
    "generate": "wmcore.generation",
}

__all__ = [
    "SCHEMES",
    "Detection",
    "DetectionPower",
    "Detector",
    "Generation",
    "Key",
    "PublishedKey",
    "SampledText",
    "Watermark",
    "WatermarkError",
    "__version__",
    "detection_power",
    "generate",
]


if not TYPE_CHECKING:  # which would take it to mean that every name is there

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'wmcore' has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
