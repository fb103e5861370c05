"""NVRTC compiles every CUDA kernel to machine code, without a driver or a device."""

import ctypes
import os
import re
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

from wmcore.kernels.cuda import source

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    """The compiler from NVIDIA's wheel."""
    for package in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            found = files(package) or []
        except PackageNotFoundError:
            continue
        for path in found:
            if re.search(r"libnvrtc\.so|nvrtc64_\d+_\d\.dll", path.name):
                return ctypes.CDLL(str(path.locate()))
    reason = "NVRTC is not installed: pip install nvidia-cuda-nvrtc"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def compiled(nvrtc: ctypes.CDLL, architecture: str) -> bytes:
    """The cubin; fails with the compiler's words."""
    program = ctypes.c_void_p()
    text = source.source().encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"wmcore.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={architecture}".encode(), *map(str.encode, source.OPTIONS)]
    status = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    log = _output(nvrtc, program, "ProgramLog")
    assert status == 0, log.decode()
    assert b"warning" not in log, log.decode()
    ptx = _output(nvrtc, program, "PTX")
    assert b"fma.rn.f32" in ptx
    assert b".ftz" not in ptx  # subnormal numbers count
    return _output(nvrtc, program, "CUBIN")


def _output(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    assert getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert getattr(nvrtc, f"nvrtcGet{what}")(program, buffer) == 0
    return buffer.raw


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles(nvrtc, architecture):
    code = compiled(nvrtc, architecture)
    for name in source.entry_points():
        assert f".text.{name}\0".encode() in code


def test_every_kernel_is_an_entry_point_and_every_file_is_used():
    folder = Path(source.__file__).parent
    kernels = sum(path.read_text().count("__global__") for path in folder.glob("*.cu"))
    assert kernels == len(source.entry_points()) == len(set(source.entry_points()))
    assert {path.name for path in folder.glob("*.cu")} == set(source.FILES)
    text = source.source()
    for path in folder.glob("*.cuh"):
        assert text.count(f'#line 1 "{path.name}"') == 1
    assert not re.search(r'#include "', text)
