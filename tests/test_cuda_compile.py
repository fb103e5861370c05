"""NVRTC compiles every CUDA kernel to machine code, without a driver or a device."""

import re
from pathlib import Path

import pytest
from peers import unavailable

from wmcore.kernels.cuda import source

ARCHITECTURES = (
    pytest.param("sm_75", marks=pytest.mark.slow),
    pytest.param("sm_80", marks=pytest.mark.slow),
    "sm_90",
    pytest.param("sm_100", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles(disassembly, architecture):
    try:
        nvrtc = disassembly.compiler()
    except disassembly.MissingTool as missing:
        unavailable(str(missing))
    made = disassembly.compiled(nvrtc, architecture)
    assert "warning" not in made.log
    assert b"fma.rn.f32" in made.ptx
    assert b".ftz" not in made.ptx  # subnormal numbers count
    for name in source.entry_points():
        assert f".text.{name}\0".encode() in made.cubin


def test_every_kernel_is_an_entry_point_and_every_file_is_used():
    folder = Path(source.__file__).parent
    kernels = sum(path.read_text().count("__global__") for path in folder.glob("*.cu"))
    assert kernels == len(source.entry_points()) == len(set(source.entry_points()))
    assert {path.name for path in folder.glob("*.cu")} == set(source.FILES)
    text = source.source()
    for path in folder.glob("*.cuh"):
        assert text.count(f'#line 1 "{path.name}"') == 1
    assert not re.search(r'#include "', text)
