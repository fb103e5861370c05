"""Packaging: ``kernels/``, ``bindings/`` and ``benchmarks/paper/`` become ``wmcore.kernels``, ``wmcore.bindings`` and
``wmcore.paper``.

Top-level packages of those names would collide with others (transformers imports a package
named ``kernels`` when there is one), so the folders are mapped under ``wmcore``.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "wmcore/_version.py").read_text())[1]

MAPPED = {
    "wmcore.kernels": "kernels",
    "wmcore.bindings": "bindings",
    "wmcore.paper": "benchmarks/paper",
}


def packages() -> list[str]:
    """Every package to install, under the name it is imported by."""
    found = find_packages(str(ROOT), include=["wmcore", "wmcore.*"])
    for name, folder in MAPPED.items():
        found.append(name)
        found += [f"{name}.{sub}" for sub in find_packages(str(ROOT / folder))]
    return found


TOKENIZER = ["tokenizers>=0.22,<1"]
GENERATE = [
    *TOKENIZER,
    "transformers>=4.57,<6",
    "gguf>=0.17,<1",
    "torch>=2.6,<3",
    "accelerate>=1.1,<2",
]
SCAN = ["pyarrow>=17", "fsspec>=2024.6", "zstandard>=0.22,<1", "lxml>=6,<7"]
SERVE = [
    "fastapi>=0.115,<1",
    "uvicorn>=0.37,<1",
    "prometheus-client>=0.21,<1",
    "python-multipart>=0.0.20,<1",  # the page's form
]
RAY = [*SCAN, "ray[data]>=2.51,<3"]
# CuPy without NVIDIA's compiler cannot build kernels. The driver decides: CUDA 12 or 13.
CUDA12 = ["cupy-cuda12x>=14,<15", "nvidia-cuda-nvrtc-cu12>=12.4,<13"]
CUDA13 = ["cupy-cuda13x>=14,<15", "nvidia-cuda-nvrtc>=13,<14"]
# The compiler and the disassembler alone, for tests: they need neither a driver nor CuPy.
NVRTC = "nvidia-cuda-nvrtc>=13,<14; sys_platform == 'linux' or sys_platform == 'win32'"
DISASSEMBLER = "nvidia-cuda-nvdisasm>=13,<14; sys_platform == 'linux'"
PLOT = ["matplotlib>=3.9,<4"]
# sentencepiece: for the tokenizers of translation models.
PAPER = ["pyarrow>=17", *PLOT, "sentencepiece>=0.2,<1"]
# Built from source where it is installed: cmake and a C++ compiler.
LLAMACPP = ["llama-cpp-python[server]>=0.3.36,<0.4"]
MYPY = "mypy>=2.4,<3"
TEST = [
    NVRTC,
    DISASSEMBLER,
    *("pytest>=8.3,<10", "pytest-timeout>=2.3,<3", "hypothesis>=6.100,<7"),
    *SCAN,
    *SERVE,
    "httpx2>=2,<3",  # FastAPI's test client
    "datasets>=3.2",
    MYPY,  # over a user's script
    *("nbclient>=0.10,<1", "ipykernel>=6.29,<8"),  # run examples/compare.ipynb
    *PAPER,
]
PAGES = ["playwright>=1.60,<2", "axe-playwright-python>=0.1.7,<0.2"]
CHECK = ["ruff>=0.17.6,<0.18", MYPY]
# MkDocs 2 is another program, which this theme does not run on.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1,<2"]
BENCH = ["pytest>=8.3,<10", "pytest-benchmark>=5.1,<6", "matplotlib>=3.9,<4"]

setup(
    name="wmcore-lm",  # wmcore on PyPI is a physics framework
    version=VERSION,
    description="Fast, exact engine for robust distortion-free watermarks of language models",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"wmcore": "wmcore", **MAPPED},
    packages=packages(),
    package_data={
        "wmcore": ["py.typed", "data/*", "templates/*"],
        "wmcore.kernels": ["py.typed"],
        "wmcore.kernels.cuda": ["*.cu", "*.cuh"],
        "wmcore.bindings": ["py.typed"],
        "wmcore.paper": ["py.typed"],
    },
    include_package_data=False,
    zip_safe=False,
    install_requires=[
        "numpy>=1.26,<3",
        "numba>=0.61,<1",
        "scipy>=1.13,<2",
        "typer>=0.29,<1",
        "rich>=13.7,<16",
        "jinja2>=3.1,<4",
    ],
    extras_require={
        "tokenizer": TOKENIZER,
        "generate": GENERATE,
        "demo": GENERATE,
        "scan": [*TOKENIZER, *SCAN],
        "ray": [*TOKENIZER, *RAY],
        "serve": [*TOKENIZER, *SERVE],
        "plot": PLOT,
        "paper": [*GENERATE, *PAPER],
        "llamacpp": LLAMACPP,
        "test": TEST,
        "pages": PAGES,
        "check": CHECK,
        "docs": DOCS,
        "bench": BENCH,
        "cuda12": CUDA12,
        "cuda13": CUDA13,
        "dev": [*GENERATE, *TEST, *PAGES, *CHECK, *BENCH],
    },
    entry_points={
        "console_scripts": ["wmcore = wmcore.cli.main:main"],
        # Idle unless the server names a watermark: see bindings/vllm.py, bindings/sglang.py.
        "vllm.logits_processors": ["wmcore = wmcore.bindings.vllm:WatermarkLogitsProcessor"],
        "vllm.general_plugins": ["wmcore = wmcore.bindings.vllm:guard"],
        "sglang.srt.plugins": ["wmcore = wmcore.bindings.sglang:register"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Typing :: Typed",
    ],
)
