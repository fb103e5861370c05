"""The thread pool: complete, in any number, safe with several callers and after a fork."""

import os
import threading

import numpy as np
import pytest

from wmcore import Detector, Watermark
from wmcore.kernels.cpu.threads import run, slices


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("pieces", [1, 2, 3, 50])
def test_slices_cover_everything_once(count, pieces):
    found = slices(count, pieces)
    assert [i for a, b in found for i in range(a, b)] == list(range(count))
    assert len(found) <= pieces


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_job_runs_and_errors_come_back(threads):
    done = []
    run(done.append, [(i,) for i in range(20)], threads)
    assert sorted(done) == list(range(20))

    def fail(i):
        done.append(i)
        if i == 3:
            raise KeyError("three")

    done.clear()
    with pytest.raises(KeyError, match="three"):
        run(fail, [(i,) for i in range(6)], threads)
    assert set(done) >= {0, 1, 2, 3}


def test_an_interrupt_leaves_out_what_has_not_begun():
    begun = []
    release = threading.Event()

    def job(i):
        begun.append(i)
        if i == 0:
            raise KeyboardInterrupt
        release.wait(20)

    threading.Timer(0.5, release.set).start()
    with pytest.raises(KeyboardInterrupt):
        run(job, [(i,) for i in range(50)], 2)
    assert len(begun) < 10
    after = len(begun)
    release.wait(20)
    assert len(begun) == after


def test_two_callers_at_once():
    detector = Detector(Watermark.create("exp-edit", vocab_size=100, key_length=40), threads=2)
    texts = [np.random.default_rng(0).integers(0, 100, size=50)] * 4
    expected = detector.detect(texts, seed=1)
    results = []
    callers = [
        threading.Thread(target=lambda: results.append(detector.detect(texts, seed=1)))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [expected] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own_pool():
    detector = Detector(Watermark.create("exp", vocab_size=100, key_length=40), threads=2)
    texts = [np.arange(30), np.arange(40), np.arange(50)]
    expected = detector.detect(texts, seed=1)
    child = os.fork()
    if child == 0:
        os._exit(0 if detector.detect(texts, seed=1) == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
