"""The file of compiled CUDA kernels: made anew where it is damaged, put where it can be written. Needs no GPU."""

import os
from types import SimpleNamespace

import pytest

from wmcore.kernels.cuda import device as cuda

CODE = b"machine code" * 100


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A device on a stand-in for CuPy that counts its compilations."""
    compiled = []

    def compile_using_nvrtc(source, options):
        compiled.append(source)
        return CODE, None

    cupy = SimpleNamespace(
        __version__="14",
        cuda=SimpleNamespace(
            Device=lambda index: SimpleNamespace(compute_capability="90"),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
            compiler=SimpleNamespace(compile_using_nvrtc=compile_using_nvrtc),
        ),
    )
    device = object.__new__(cuda.CupyDevice)
    device._cupy, device.index = cupy, 0
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "private_folder", lambda: str(tmp_path / "private"))
    (tmp_path / "private").mkdir()
    return device, compiled


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_it_is_compiled_once(made, tmp_path):
    device, compiled = made
    path = device._machine_code()
    assert content(path) == CODE
    assert path.startswith(str(tmp_path / "cache"))
    assert device._machine_code() == path
    assert len(compiled) == 1


@pytest.mark.parametrize("damage", [b"", CODE[:-1], CODE[:-1] + b"x", None])
@pytest.mark.parametrize("which", [".cubin", ".sha256"])
def test_a_damaged_file_is_compiled_again(made, damage, which):
    device, compiled = made
    path = os.path.splitext(device._machine_code())[0] + which
    if damage is None:
        os.unlink(path)
    else:
        with open(path, "wb") as file:
            file.write(damage)
    assert content(device._machine_code()) == CODE
    device._machine_code()
    assert len(compiled) == 2


def test_a_folder_that_cannot_be_written_is_left_out(made, tmp_path, monkeypatch):
    device, compiled = made
    (tmp_path / "cache").write_text("no folder")
    path = device._machine_code()
    assert path.startswith(str(tmp_path / "private"))
    assert device._machine_code() == path
    assert len(compiled) == 1
    monkeypatch.setattr(cuda, "private_folder", lambda: None)
    assert content(device._machine_code()) == CODE


def test_a_full_disk_leaves_nothing_behind(made, tmp_path, monkeypatch):
    device, _ = made
    monkeypatch.setattr(cuda.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    monkeypatch.setattr(cuda.tempfile, "mkdtemp", lambda: str(tmp_path / "last"))
    with pytest.raises(OSError, match="full"):
        device._machine_code()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
