"""Files that are written whole or not at all."""

import os
import stat

import pytest

from wmcore import whole_file


def test_a_file_is_replaced_with_its_permissions_and_through_a_link(tmp_path):
    old, link = tmp_path / "old", tmp_path / "link"
    whole_file.write(old, b"one")
    assert stat.S_IMODE(old.stat().st_mode) == 0o666 & ~_umask()
    old.chmod(0o640)
    link.symlink_to("old")
    whole_file.write(link, b"two")
    assert link.is_symlink()
    assert old.read_bytes() == b"two"
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link", "old"]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, failing):
    path = tmp_path / "page.html"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device", "elsewhere")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left") as caught:
        whole_file.write(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_device_is_written_to_as_it_is():
    whole_file.write("/dev/null", b"x")
    assert not os.path.isfile("/dev/null")


def test_a_folder_is_an_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        whole_file.write(tmp_path, b"x")
