"""In place of torchvision for SGLang on a CPU: the PyPI wheels need CUDA's torch, and text needs none of it."""

import importlib.abc
import importlib.machinery
import sys
from unittest import mock

__path__: list[str] = []
__version__ = "0"


class _Nothing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        inside = name.startswith("torchvision.")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if inside else None

    def create_module(self, spec):
        return mock.MagicMock(name=spec.name, __path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(_Nothing())


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return mock.MagicMock(name=f"torchvision.{name}")
