"""The thread pool: complete, in any number, safe with several callers and after a fork."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wmcore import Detector, Watermark
from wmcore.kernels.cpu.backend import CpuBackend
from wmcore.kernels.cpu.threads import run, slices
from wmcore.plan import Plan


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


def a_detector_that_makes_its_table():
    """A detector that, asked for any text, first makes its table of costs; and texts."""
    watermark = Watermark.create("exp", vocab_size=300, key_length=40)
    return Detector(watermark, threads=2), [np.arange(200), np.arange(100, 300)]


def slow_table(monkeypatch, during):
    """Call `during` while a table of costs is made, on the thread that makes it."""
    make = CpuBackend.exp_table

    def exp_table(*arguments):
        during()
        return make(*arguments)

    monkeypatch.setattr(CpuBackend, "exp_table", exp_table)


def in_a_child(job):
    """The exit code of a forked child that does a job: 0 if it returns true; killed after a minute."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        os._exit(0 if job() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
quiet = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@forks
@quiet
def test_a_child_forked_while_a_thread_makes_the_table_does_not_hang(monkeypatch):
    detector, texts = a_detector_that_makes_its_table()
    expected = a_copy(detector).detect(texts, seed=1)
    begun, end = threading.Event(), threading.Event()
    parent = os.getpid()

    def during():
        if os.getpid() == parent:
            begun.set()
            end.wait(90)

    slow_table(monkeypatch, during)
    found = []
    maker = threading.Thread(target=lambda: found.append(detector.detect(texts, seed=1)))
    maker.start()
    begun.wait(60)
    code = in_a_child(lambda: detector.detect(texts, seed=1) == expected)
    here = detector.detect(texts, seed=1)  # nor does another thread wait
    end.set()
    maker.join()
    assert (code, here, found) == (0, expected, [expected])


@forks
@quiet
@pytest.mark.parametrize("plan", [Plan(), Plan(first_resamples=31)])
def test_a_signal_handler_may_detect_while_the_table_is_made(monkeypatch, plan):
    detector, texts = a_detector_that_makes_its_table()
    expected = a_copy(detector).detect(texts, plan=plan, seed=1)
    handled = []

    def handler(*_):
        handled.append(detector.detect(texts, plan=plan, seed=1))

    def during():
        if not handled:
            signal.raise_signal(signal.SIGUSR1)

    def job():
        signal.signal(signal.SIGUSR1, handler)
        slow_table(monkeypatch, during)
        return [detector.detect(texts, plan=plan, seed=1), *handled] == [expected, expected]

    assert in_a_child(job) == 0


@forks
@quiet
def test_a_signal_handler_may_detect_at_any_moment():
    """Also while its thread holds a lock of the pool."""
    watermark = Watermark.create("exp-edit", vocab_size=300, key_length=40)
    texts = [np.random.default_rng(i).integers(0, 300, size=30) for i in range(8)]
    expected = Detector(watermark, threads=2).detect(texts, seed=1, resamples=9)
    detectors = [None]
    handled = []

    def handler(*_):
        if detectors[0] is not None:
            detector, detectors[0] = detectors[0], None  # not into itself
            handled.append(detector.detect(texts, seed=1, resamples=9) == expected)
            detectors[0] = detector

    def job():
        signal.signal(signal.SIGPROF, handler)
        detectors[0] = Detector(watermark, threads=2)
        signal.setitimer(signal.ITIMER_PROF, 0.0005, 0.0005)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            if Detector(watermark, threads=2).detect(texts, seed=1, resamples=9) != expected:
                return False
        signal.setitimer(signal.ITIMER_PROF, 0)
        return len(handled) > 20 and all(handled)

    assert in_a_child(job) == 0


def test_a_job_that_comes_back_to_the_pool_from_its_callers_thread_runs_in_place(monkeypatch):
    inner = []
    submit = ThreadPoolExecutor.submit

    def interrupted(self, *arguments):  # as by a signal, inside the pool
        if not inner:
            inner.append("begun")
            run(lambda: inner.append(threading.current_thread()), [(), ()], 2)
        return submit(self, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    outer = []
    run(outer.append, [(1,), (2,)], 2)
    assert inner == ["begun", *[threading.current_thread()] * 2]
    assert sorted(outer) == [1, 2]


def a_copy(detector):
    """The same detector, without a table."""
    return Detector(detector.watermark, threads=2)
