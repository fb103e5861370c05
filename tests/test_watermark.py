"""The object a user keeps and its file."""

import errno
import fcntl
import json
import os
import stat
import threading
import warnings

import numpy as np
import pytest

from wmcore import SCHEMES, Key, PublishedKey, Watermark, WatermarkError
from wmcore.kernels.problem import EDIT, ITS


def make(**changes):
    settings = {"scheme": "exp-edit", "vocab_size": 1000, **changes}
    return Watermark.create(settings.pop("scheme"), **settings)


def test_numpy_numbers_are_numbers():
    watermark = make(vocab_size=np.int64(1000), gap=np.float32(0.5))
    assert watermark.problem().gamma == 2048


def test_defaults():
    assert [make(scheme=s).gap for s in SCHEMES] == [0.0, 3.0, 1.8, 3.0, 0.0, 0.4, 1.2, 3.0]
    published = [
        Watermark.published(s, seed=1, generator="torch", vocab_size=9).gap for s in SCHEMES
    ]
    assert published == [0.0, 0.0, 1.8, 3.0, 0.0, 0.4, 1.2, 3.0]
    watermark = make()
    assert (watermark.key_length, watermark.block_length) == (256, None)
    assert isinstance(watermark.key, Key)
    assert make().key != make().key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scheme": "gumbel"},
            "scheme 'gumbel' is not known: use one of exp, exp-edit, exp-free, exp-local, its, its-edit,",
        ),
        ({"vocab_size": 0}, "vocab_size is 0, but must be a whole number from 1 to"),
        ({"vocab_size": 2.5}, "vocab_size is 2.5, but must be a whole number"),
        ({"key_length": -1}, "key_length is -1"),
        ({"block_length": 0}, "block_length is 0"),
        ({"block_length": 8193}, "block_length is 8193, but must be a whole number from 1 to 8192"),
        ({"gap": -0.1}, "gap is -0.1, but must be a number of at least 0"),
        ({"gap": float("nan")}, "gap is nan"),
        ({"scheme": "its", "gap": 0.4}, "scheme 'its' has no edits"),
        ({"key": "secret"}, "key is a str"),
        ({"tokenizer": 3}, "tokenizer is a int"),
    ],
)
def test_bad_settings_are_explained(changes, message):
    with pytest.raises(WatermarkError, match=message) as error:
        make(**changes)
    assert "{" not in str(error.value)


@pytest.mark.parametrize(
    "watermark",
    [
        make(),
        make(scheme="its-edit", gap=0.25, block_length=20, key_length=64, tokenizer="smollm2"),
        Watermark.published("exp", seed=42, generator="mersenne", vocab_size=500),
        Watermark.published("its", seed=7, generator="torch", vocab_size=500),
    ],
)
def test_a_file_holds_everything(tmp_path, watermark):
    path = tmp_path / "watermark.json"
    watermark.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Watermark.load(path) == watermark
    document = json.loads(path.read_text())
    assert document["format"] == "wmcore.watermark"
    assert document["version"] == 1
    assert os.listdir(tmp_path) == ["watermark.json"]


def test_saving_over_a_file_keeps_it_private(tmp_path):
    path = tmp_path / "watermark.json"
    path.write_text("old")
    path.chmod(0o644)
    make().save(path, replace=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(WatermarkError, match="cannot be written"):
        make().save(tmp_path / "no" / "watermark.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WatermarkError, match=r"cannot be written .Is a directory"):
        make().save(tmp_path / "folder", replace=True)
    assert os.listdir(tmp_path) == ["folder"]


def test_a_secret_in_a_wrong_place_is_not_shown(tmp_path):
    """A file from which the text between two quotes is missing."""
    path = tmp_path / "watermark.json"
    mark = Watermark.create("exp", vocab_size=9)
    mark.save(path)
    path.write_text(path.read_text().replace('chacha8",\n    "secret": "', ""))
    with pytest.raises(WatermarkError, match="a kind, which this version does not know") as refused:
        Watermark.load(path)
    assert mark.key.secret_hex[:8] not in str(refused.value)


def test_the_secret_can_stay_in_the_environment(tmp_path, monkeypatch):
    watermark, path = make(), tmp_path / "watermark.json"
    watermark.save(path, key_from_env="WMCORE_TEST_SECRET")
    assert watermark.key.secret_hex not in path.read_text()
    monkeypatch.delenv("WMCORE_TEST_SECRET", raising=False)
    with pytest.raises(WatermarkError, match="'WMCORE_TEST_SECRET', which is not set"):
        Watermark.load(path)
    monkeypatch.setenv("WMCORE_TEST_SECRET", Key.generate().secret_hex)
    with pytest.raises(WatermarkError, match="set the right secret"):
        Watermark.load(path)
    monkeypatch.setenv("WMCORE_TEST_SECRET", "not hexadecimal")
    with pytest.raises(WatermarkError, match="'WMCORE_TEST_SECRET' is not 64 hex") as error:
        Watermark.load(path)
    assert "not hexadecimal:" not in str(error.value)
    monkeypatch.setenv("WMCORE_TEST_SECRET", watermark.key.secret_hex)
    assert Watermark.load(path) == watermark


def test_a_published_key_has_no_secret_to_leave_out(tmp_path):
    watermark = Watermark.published("exp", seed=1, generator="torch", vocab_size=10)
    with pytest.raises(WatermarkError, match="leave key_from_env out"):
        watermark.save(tmp_path / "watermark.json", key_from_env="NAME")


def test_a_file_that_others_can_read_is_reported(tmp_path):
    path = tmp_path / "watermark.json"
    make().save(path)
    path.chmod(0o644)
    with pytest.warns(UserWarning, match="can be read by other users: run chmod 600"):
        Watermark.load(path)


@pytest.mark.parametrize("claim", [True, False, 1, "yes", None])
def test_only_a_key_that_says_it_is_public_may_be_read_by_others(tmp_path, claim):
    path = tmp_path / "watermark.json"
    watermark = make()
    watermark.save(path)
    document = json.loads(path.read_text())
    assert "public" not in document["key"]
    document["key"]["public"] = claim
    path.write_text(json.dumps(document))
    path.chmod(0o644)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert Watermark.load(path) == watermark
    assert len(said) == (claim is not True)


def damaged(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=0), "has version 0, but this wmcore reads version 1"),
        (lambda d: d.update(version=2), "has version 2"),
        (lambda d: d.update(format="other"), "not a watermark file"),
        (lambda d: d.pop("scheme"), "field 'scheme' is missing"),
        (lambda d: d.pop("key"), "field 'key' is missing"),
        (lambda d: d.update(key=3), "missing or of the wrong type"),
        (lambda d: d["key"].update(kind="rsa"), "kind 'rsa'"),
        (lambda d: d["key"].update(secret="12"), r"watermark\.json is not 64 hexadecimal"),
        (lambda d: d["key"].update(secret=12), r"watermark\.json is not 64 hexadecimal"),
        (lambda d: d.update(scheme="exp2"), "scheme 'exp2' is not known"),
        (lambda d: d.update(vocab_size="many"), "vocab_size is 'many'"),
        (lambda d: d.update(gap="wide"), "gap is 'wide'"),
        (lambda d: d.update(gap=True), "gap is True"),
        (lambda d: d.update(gap=1e400), "gap is inf"),
    ],
)
def test_damaged_files_are_explained_without_the_secret(tmp_path, change, message):
    path = tmp_path / "watermark.json"
    watermark = make()
    watermark.save(path)
    damaged(path, change)
    with pytest.raises(WatermarkError, match=message) as error:
        Watermark.load(path)
    assert watermark.key.secret_hex not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("seed", ["se3cr3t", "12345678", 3.7, 1e400, None, True])
def test_a_damaged_seed_is_not_shown(tmp_path, seed):
    path = tmp_path / "watermark.json"
    Watermark.published("exp", seed=1, generator="torch", vocab_size=10).save(path)
    damaged(path, lambda d: d["key"].update(seed=seed))
    with pytest.raises(WatermarkError, match="seed must be a whole number") as error:
        Watermark.load(path)
    assert str(seed) not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b'{"version": ' + b"9" * 5000 + b"}",
        b"",
        b"\xff\xfe\x00",
        b"[1]",
        b"{",
        b"[" * 100_000,
        b"null",
        b"\0" * 100,
    ],
)
def test_files_of_another_kind(tmp_path, content):
    path = tmp_path / "watermark.json"
    path.write_bytes(content)
    with pytest.raises(WatermarkError, match="not a watermark file or is corrupt"):
        Watermark.load(path)


def test_missing_and_huge_files(tmp_path):
    with pytest.raises(WatermarkError, match=r"cannot be read .No such file"):
        Watermark.load(tmp_path / "none.json")
    with pytest.raises(WatermarkError, match=r"cannot be read .Is a directory"):
        Watermark.load(tmp_path)
    huge = tmp_path / "huge.json"
    make().save(huge)
    huge.write_bytes(huge.read_bytes() + b" " * (2 << 20))
    with pytest.raises(WatermarkError, match="not a watermark file or is corrupt"):
        Watermark.load(huge)


def test_the_problem_in_integers():
    problem = make(scheme="its-edit", key_length=9).problem()
    assert (problem.cost, problem.alignment, problem.n) == (ITS, EDIT, 9)
    assert (problem.gamma, problem.denominator) == (round(0.4 * 65536), 999)
    published = Watermark.published("its", seed=1, generator="torch", vocab_size=1000)
    assert published.problem().denominator == 1000
    assert isinstance(published.key, PublishedKey)
    assert make(gap=0.5).problem().gamma == 2048


HOSTILE = [
    None,
    True,
    -1,
    0,
    1.5,
    1e400,
    float("nan"),
    10**400,
    "",
    "\ud800",
    "\x00",
    "x" * 10_000,
    [],
    [[[]]],
    {},
    {"kind": "env"},
    {"kind": ["env"]},
    {"kind": "env", "name": 3, "fingerprint": ""},
    {"kind": "env", "name": [], "fingerprint": ""},
    {"kind": "env", "name": "\ud800", "fingerprint": ""},
    {"kind": "env", "name": "a\x00b", "fingerprint": ""},
    {"kind": "env", "name": "a=b", "fingerprint": {}},
    {"kind": "env", "name": "HOME", "fingerprint": {}},
    {"kind": "env", "name": "NAME" * 5_000, "fingerprint": ""},
    {"kind": "chacha8", "secret": None},
    {"kind": "chacha8", "secret": "\u0660" * 64},
    {"kind": "chacha8", "secret": ["00"] * 32},
    {"kind": "published", "generator": [], "seed": 1},
    {"kind": "published", "generator": "torch", "seed": []},
    {"kind": "published", "generator": "torch", "seed": -1},
    {"kind": "published", "generator": "torch", "seed": 10**400},
    {"kind": "\x1b]0;title\x07" * 500},
]


@pytest.mark.parametrize("field", ["format", "version", *vars(make())])
def test_hostile_fields_are_one_short_sentence(tmp_path, field):
    path = tmp_path / "watermark.json"
    good = {"block_length": (None,), "tokenizer": (None, *HOSTILE), "gap": (0, 1.5)}
    for value in HOSTILE:
        make().save(path, replace=True)
        damaged(path, lambda d, value=value: d.update({field: value}))
        said = refusal(path)
        if said is None:
            assert value in good.get(field, ()), value
        else:
            assert len(said) < 500, value
            assert said.isprintable(), value


def refusal(path):
    try:
        Watermark.load(path)
    except WatermarkError as error:
        return str(error)
    return None


def test_a_path_that_is_none_is_one_sentence(tmp_path):
    for path in ("a\0b", str(tmp_path / ("x" * 5_000))):
        with pytest.raises(WatermarkError, match="cannot be read"):
            Watermark.load(path)
        with pytest.raises(WatermarkError, match="cannot be written"):
            make().save(path)


@pytest.mark.parametrize("digits", [400, 5000])
def test_absurd_numbers_are_one_short_sentence(digits):
    number = 10**digits
    for name in ("gap", "vocab_size", "key_length", "block_length", "key", "tokenizer", "scheme"):
        with pytest.raises(WatermarkError, match=f"^{name} ") as error:
            make(**{name: number})
        assert len(str(error.value)) < 300


def leftovers(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".wmcore-secret-")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("step", ["fsync", "replace", "link", "flock"])
def test_what_a_killed_save_leaves_is_removed_by_the_next(tmp_path, step, monkeypatch):

    child = os.fork()
    if child == 0:
        setattr(fcntl if step == "flock" else os, step, lambda *_: os.kill(os.getpid(), 9))
        make().save(tmp_path / "a.json", replace=step != "link")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert len(leftovers(tmp_path)) == 1
    make().save(tmp_path / "b.json")
    assert os.listdir(tmp_path) == ["b.json"]


def test_what_is_not_surely_ours_stays(tmp_path, monkeypatch):
    name = f".wmcore-secret-{'0' * 32}.tmp"
    others = [
        name.replace("0.tmp", "g.tmp"),
        f"{name}.bak",
        "watermark.tmp",
        f".watermark.{'0' * 8}",
    ]
    for other in others:
        (tmp_path / other).write_text("")
    (tmp_path / name.replace("00.", "01.")).mkdir()
    (tmp_path / "real").write_text("")
    (tmp_path / name.replace("00.", "02.")).symlink_to(tmp_path / "real")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / name.replace("00.", "03."))
    before = set(os.listdir(tmp_path))
    make().save(tmp_path / "watermark.json")
    assert set(os.listdir(tmp_path)) - {"watermark.json"} == before
    (tmp_path / name).write_text("")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    make().save(tmp_path / "watermark.json", replace=True)
    assert (tmp_path / name).exists()


def test_a_file_that_another_process_is_writing_stays(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / f".wmcore-secret-{'0' * 32}.tmp"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        make().save(tmp_path / "watermark.json")
        assert path.exists()
    make().save(tmp_path / "watermark.json", replace=True)
    assert not path.exists()


def test_a_scratch_file_that_is_taken_for_a_leftover_is_made_again(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    real, taken = fcntl.flock, []

    def flock(handle, how):
        if not taken and not how & fcntl.LOCK_NB:
            taken.extend(leftovers(tmp_path))
            taken[0].unlink()  # another process, between its creation and its lock
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    watermark = make()
    watermark.save(tmp_path / "watermark.json")
    assert taken
    assert Watermark.load(tmp_path / "watermark.json") == watermark
    assert os.listdir(tmp_path) == ["watermark.json"]


@pytest.mark.parametrize("lacking", ["flock", "fsync", "link"])
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK])
def test_what_a_file_system_lacks_is_done_without(tmp_path, monkeypatch, lacking, code):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl if lacking == "flock" else os, lacking, refuse)
    watermark, path = make(), tmp_path / "watermark.json"
    watermark.save(path)
    assert Watermark.load(path) == watermark
    with pytest.raises(WatermarkError, match="exists"):
        watermark.save(path)
    assert os.listdir(tmp_path) == ["watermark.json"]


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path, monkeypatch):
    watermark, path = make(), tmp_path / "watermark.json"
    watermark.save(path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WatermarkError, match="No space left"):
        make().save(path, replace=True)
    assert Watermark.load(path) == watermark
    assert os.listdir(tmp_path) == ["watermark.json"]


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
def test_what_is_there_is_not_replaced_unless_asked(tmp_path, kind):
    path = tmp_path / "watermark.json"
    if kind == "file":
        path.write_text("old")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "none")
    with pytest.raises(WatermarkError, match="exists: choose another name"):
        make().save(path)
    assert os.listdir(tmp_path) == ["watermark.json"]
    if kind != "folder":
        watermark = make()
        watermark.save(path, replace=True)
        assert Watermark.load(path) == watermark
        assert not path.is_symlink()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_of_many_that_write_one_file_without_replacing_one_wins(tmp_path):
    path = tmp_path / "watermark.json"
    marks = [make() for _ in range(8)]
    kept = []

    def save(watermark):
        try:
            watermark.save(path)
        except WatermarkError:
            return
        kept.append(watermark)

    writers = [threading.Thread(target=save, args=(mark,)) for mark in marks]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert kept == [Watermark.load(path)]
    assert os.listdir(tmp_path) == ["watermark.json"]
