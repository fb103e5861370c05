"""The kernels' decorator: its cache survives damage, other processes and folders that cannot be written."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from wmcore.kernels.cpu import jit

MODULE = """
from wmcore.kernels.cpu.jit import njit

@njit(nogil=True, cache=True)
def total(x):
    s = x[0]
    for i in range(1, x.size):
        s += x[i]
    return s
"""
PRELUDE = """
import os, sys, tempfile, warnings
import numpy as np
sys.path.insert(0, os.environ["HERE"])
tempfile.tempdir = os.environ["TEMPORARY"]
warnings.simplefilter("always")
from summing import total
hits = lambda: sum(total.stats.cache_hits.values())
"""


@pytest.fixture
def here(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "summing.py").write_text(MODULE)
    (tmp_path / "temporary").mkdir()
    return tmp_path


def run(here, code, **environment):
    """Run code beside the module `summing`; everything it may write to is in the folder `here`."""
    settings = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")},
        "HERE": str(here / "code"),
        "TEMPORARY": str(here / "temporary"),
        "HOME": str(here / "home"),
        "XDG_CACHE_HOME": str(here / "home" / "cache"),
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        env=settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def out(here, code, **environment):
    done = run(here, code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


USE = "print(total(np.arange(4)), total(np.arange(3.0)), hits())"


def read_only(here):
    """Nothing can be written beside the module, by root neither: a file has the folder's name."""
    (here / "code" / "__pycache__").write_text("")


def no_home(here):
    return {"HOME": os.devnull, "XDG_CACHE_HOME": os.devnull}


def files(here):
    return sorted(here.rglob("*.nbc"))


def test_a_second_process_compiles_nothing(here):
    assert out(here, USE)[0] == ["6", "3.0", "0"]
    assert len(files(here)) == 2
    assert out(here, USE)[0] == ["6", "3.0", "2"]


def test_a_damaged_file_is_compiled_again(here):
    out(here, USE)
    for path in files(here):
        path.write_bytes(path.read_bytes()[:-100])
    assert out(here, USE) == (["6", "3.0", "0"], f"{jit.COMPILING}\n")
    assert out(here, USE) == (["6", "3.0", "2"], "")


def test_compiling_is_said_once_and_only_when_it_happens(here):
    """By the library where nobody has set up logging, and by the command; never on standard output."""
    assert out(here, USE) == (["6", "3.0", "0"], f"{jit.COMPILING}\n")
    assert out(here, USE) == (["6", "3.0", "2"], "")
    for path in files(here):
        path.unlink()
    command = "\nfrom wmcore.cli.console import prepare\nprepare()\n"
    assert out(here, command + USE) == (["6", "3.0", "0"], f"wmcore: {jit.COMPILING}\n")
    assert out(here, command + USE) == (["6", "3.0", "2"], "")
    for path in files(here):
        path.unlink()
    silent = "\nimport logging\nlogging.getLogger('wmcore').setLevel(logging.ERROR)\n"
    assert out(here, silent + USE) == (["6", "3.0", "0"], "")


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:10],
        lambda raw: raw[:-1],
        lambda raw: raw + b"x",
        lambda raw: bytes(len(raw)),
        lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:],
        lambda raw: b"garbage" * 1000,
    ],
)
def test_damage_is_seen_before_anything_is_unpickled(tmp_path, damage, monkeypatch):
    kept = jit._Files(str(tmp_path), "kernel")
    kept.save("key", "code")
    assert kept.load("key") == "code"
    assert kept.load("another key") is None
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    monkeypatch.setattr(jit.pickle, "loads", None)
    assert kept.load("key") is None


def test_a_folder_in_the_place_of_a_file_costs_only_the_cache(here):
    out(here, USE)
    for path in files(here):
        path.unlink()
        path.mkdir()
    found, said = out(here, USE)
    assert found == ["6", "3.0", "0"]
    assert said.count("compiled code cannot be kept") == 1


def test_code_that_numba_cannot_take_is_compiled_again(here):
    out(here, USE)
    code = """
    from numba.core.caching import CompileResultCacheImpl
    def refuse(*arguments):
        raise RuntimeError("object code of another LLVM")
    CompileResultCacheImpl.rebuild = refuse
    """
    assert out(here, textwrap.dedent(code) + USE)[0] == ["6", "3.0", "0"]


def test_other_sources_or_other_versions_are_other_code(here):
    out(here, USE)
    before = files(here)
    found, _ = out(
        here, "from wmcore.kernels.cpu import jit; jit._stamp = lambda: '0' * 12\n" + USE
    )
    assert found == ["6", "3.0", "0"]
    assert len(files(here)) == 2  # of the old ones none is left
    assert not set(before) & set(files(here))


def test_two_processes_that_begin_together_keep_both_variants(here):
    """Numba's index names one file for both here, and the code of one type is run for the other for ever after."""
    code = """
    import time
    save = type(total._cache._cache_file).save
    def together(self, key, data):
        mark = os.path.join(os.environ["TEMPORARY"], "ready" + os.environ["KIND"])
        open(mark, "w").close()
        while len([f for f in os.listdir(os.environ["TEMPORARY"]) if f.startswith("ready")]) < 2:
            time.sleep(0.01)
        save(self, key, data)
    type(total._cache._cache_file).save = together
    total(np.arange(4, dtype=os.environ["KIND"]))
    """
    settings = {**os.environ, "HERE": str(here / "code"), "TEMPORARY": str(here / "temporary")}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code)], env={**settings, "KIND": kind}
        )
        for kind in ("int64", "float64")
    ]
    assert [one.wait(120) for one in both] == [0, 0]
    assert out(here, USE)[0] == ["6", "3.0", "2"]


def test_the_users_cache_folder_stands_in_for_one_that_cannot_be_written(here):
    read_only(here)
    assert out(here, USE) == (["6", "3.0", "0"], f"{jit.COMPILING}\n")
    assert out(here, USE) == (["6", "3.0", "2"], "")
    folder = here / "home" / "cache" / "wmcore"
    assert files(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_a_home_the_temporary_folder_does(here):
    read_only(here)
    assert out(here, USE, **no_home(here)) == (["6", "3.0", "0"], f"{jit.COMPILING}\n")
    assert out(here, USE, **no_home(here)) == (["6", "3.0", "2"], "")
    (folder,) = (here / "temporary").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_any_folder_there_is_one_sentence_and_the_same_result(here):
    read_only(here)
    (here / "temporary").rmdir()
    (here / "temporary").write_text("")
    found, said = out(here, USE, **no_home(here))
    assert found == ["6", "3.0", "0"]
    assert said.count("Warning") == 1
    assert "set NUMBA_CACHE_DIR to a folder" in said


def test_a_cache_dir_that_is_named_is_used(here):
    read_only(here)
    named = here / "named"
    assert out(here, USE, NUMBA_CACHE_DIR=str(named)) == (["6", "3.0", "0"], f"{jit.COMPILING}\n")
    assert files(named)


@pytest.mark.parametrize("kind", ["other", "link", "file"])
def test_aprivate_folder_of_someone_else_is_not_touched(tmp_path, monkeypatch, kind):
    user = os.geteuid() if hasattr(os, "geteuid") else ""
    name = tmp_path / f"wmcore-cache-{user}"
    if kind == "other":
        name.mkdir()
        real = os.lstat

        def lstat(path, **more):
            found = list(real(path, **more))
            found[4] = 12345  # st_uid
            return os.stat_result(found)

        monkeypatch.setattr(os, "lstat", lstat)
    elif kind == "link":
        (tmp_path / "theirs").mkdir()
        name.symlink_to(tmp_path / "theirs")
    else:
        name.write_text("")
    monkeypatch.setattr(jit.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert jit.private_folder.__wrapped__() is None


def test_a_looseprivate_folder_is_closed(tmp_path, monkeypatch):
    name = tmp_path / "wmcore"
    name.mkdir(mode=0o777)
    name.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jit.private_folder.__wrapped__() == str(name)
    assert name.stat().st_mode & 0o777 == 0o700


def test_a_user_without_a_home_gets_no_folder_called_tilde(tmp_path, monkeypatch):
    monkeypatch.setattr(jit.tempfile, "tempdir", os.devnull)
    monkeypatch.setenv("XDG_CACHE_HOME", "~/.cache")
    monkeypatch.chdir(tmp_path)
    assert jit.private_folder.__wrapped__() is None
    assert list(tmp_path.iterdir()) == []


def test_every_cached_kernel_has_this_cache():
    from wmcore.kernels.cpu import chacha, null, sample

    for kernel in (chacha.keystream, null.observe, sample.exp_sample):
        assert isinstance(kernel._cache, jit._Cache)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_while_another_thread_compiles_does_not_hang(here):
    code = """
    import signal, threading, time
    from numba.core.compiler_lock import global_compiler_lock
    inside, done = threading.Event(), []
    def compile():
        with global_compiler_lock:
            inside.set()
            time.sleep(1)
        done.append(total(np.arange(4)))
    thread = threading.Thread(target=compile)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(total(np.arange(5)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    thread.join()
    print(*done)
    """
    assert out(here, code)[0] == ["10", "6"]


@pytest.mark.parametrize("scheme", ["exp", "its-edit"])
def test_disabled_compilation_is_one_sentence(here, scheme):
    code = f"""
    from wmcore import Detector, Watermark, WatermarkError
    try:
        Detector(Watermark.create("{scheme}", vocab_size=50)).detect([[1, 2, 3]])
    except WatermarkError as error:
        print("said", error)
    try:
        total(np.arange(3))
    except RuntimeError as error:
        print("said", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        env={
            **os.environ,
            "NUMBA_DISABLE_JIT": "1",
            "HERE": str(here / "code"),
            "TEMPORARY": str(here / "temporary"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("NUMBA_DISABLE_JIT" in line and "unset it" in line for line in lines)
    assert done.stderr == ""


def test_the_kernels_give_numbas_results():
    from wmcore.kernels.cpu.costs import wrap

    rows = np.arange(40, dtype=np.int32).reshape(2, 20)
    wrap(4, rows)
    assert rows[0].tolist() == [0, 1, 2, 3] * 5
