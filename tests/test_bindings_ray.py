"""Ray Data on a local cluster of 4 logical CPUs: the same shards as one machine, also when a worker is killed."""

import json
import logging
import os
import threading
import time

import pytest
from scans import OPTIONS, corpus, shard_bytes, watermark

from wmcore import WatermarkError

pytest.importorskip("pyarrow")
ray = pytest.importorskip("ray")

from wmcore.bindings.ray import ray_shards  # noqa: E402
from wmcore.bindings.ray import scan as ray_scan  # noqa: E402
from wmcore.scan import scan  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]
MARK = watermark("exp-edit")


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(
        num_cpus=4,
        object_store_memory=200 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def tokens_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return [corpus(folder / f"c{i}.jsonl", MARK, 450, seed=i) for i in range(2)]


@pytest.fixture(scope="module")
def local(tokens_files, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "out"
    list(scan(tokens_files, MARK, out, **OPTIONS))
    return shard_bytes(out)


def test_same_output_and_resume(cluster, tokens_files, local, tmp_path):
    out = tmp_path / "out"
    results = scan(tokens_files, MARK, out, **OPTIONS)
    next(results)
    results.close()
    assert len(shard_bytes(out)) == 1
    # What one machine began, the cluster ends.
    rest = list(scan(tokens_files, MARK, out, runner=ray_shards(actors=2), **OPTIONS))
    assert len(rest) == 800
    assert shard_bytes(out) == local


def test_worker_killed_in_the_middle(cluster, tokens_files, local, tmp_path):
    import psutil

    out = tmp_path / "out"
    killed = []

    def kill():
        """Kill the first actor that has worked for a moment."""
        driver = psutil.Process()
        for _ in range(600):
            time.sleep(0.1)
            for process in psutil.process_iter(["cmdline", "pid"]):
                name = " ".join(process.info["cmdline"] or [])
                ours = driver.pid in [p.pid for p in process.parents()]
                if ours and name.startswith("ray::") and "_Tester" in name and out.exists():
                    process.kill()
                    killed.append(len(shard_bytes(out)))
                    return

    killer = threading.Thread(target=kill)
    killer.start()
    rows = list(scan(tokens_files, MARK, out, runner=ray_shards(actors=2), **OPTIONS))
    killer.join()
    assert killed
    assert killed[0] < len(local)
    assert len(rows) == 900
    assert shard_bytes(out) == local


def test_scan_of_a_dataset(cluster, tokens_files):
    records = [json.loads(line) for line in tokens_files[0].read_text().splitlines()[:60]]
    records[5]["tokens"] = None
    data = ray.data.from_items(records)
    settings = {"window": 64, "stride": 32, "resamples": 999, "seed": 1}
    rows = ray_scan(data, MARK, tokens_column="tokens", concurrency=(1, 2), **settings).take_all()
    assert len(rows) == 60
    by_id = {r["id"]: r for r in rows}
    assert by_id["m3"]["wm_p_value"] < 1e-3
    assert "is null" in by_id["d5"]["wm_error"]
    assert all(r["wm_p_value"] is not None for i, r in by_id.items() if i != "d5")


def test_bad_rows_of_a_dataset_are_errors():
    import pyarrow as pa

    from wmcore.bindings.ray import _Columns
    from wmcore.scan import ScanSettings

    settings = ScanSettings(tokens_field="tokens", window=64, stride=32, seed=1)
    values = pa.array([[1, 2, 3], [1, None], None], pa.list_(pa.int64()))
    found = _Columns(MARK, settings, "text", "tokens", "wm_")(pa.table({"tokens": values}))
    errors = found["wm_error"].to_pylist()
    assert errors[0] is None
    assert "not a list of token ids" in errors[1]
    assert "is null" in errors[2]


def test_no_cluster_there(tokens_files):
    ray.shutdown()
    with pytest.raises(WatermarkError, match="no Ray cluster answers"):
        list(scan(tokens_files, MARK, runner=ray_shards(address="127.0.0.1:1"), **OPTIONS))
