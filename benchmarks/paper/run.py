"""The runner: what is missing of texts, attacked texts and tests is made by a pool of processes, a piece at a time.

Each piece is a file that is written whole, so a run that is stopped at any moment goes on where it was.
"""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

from wmcore.errors import WatermarkError
from wmcore.paper import points as testing
from wmcore.paper.attacks import Unavailable, attacked
from wmcore.paper.points import Point, merged
from wmcore.paper.study import Study
from wmcore.paper.texts import TextSet, load, part_path, parts, save_part
from wmcore.paper.writing import all_prompts, write_part
from wmcore.progress import progress_bar

POINTS_A_TASK = 8
"""Tests that one task makes, of the same texts: they are read once."""


@dataclass(frozen=True)
class Piece:
    """A part of a set of texts that is to be written, or attacked."""

    texts: TextSet
    part: int


@dataclass
class Outcome:
    """The sets of texts whose attack cannot be run, and why."""

    unavailable: dict[TextSet, str] = field(default_factory=dict)


def begin(study: Study, threads: int) -> None:
    """What each process does first."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    study.begin()


def _end_with_parent() -> None:
    """A run that is killed leaves nothing behind that works on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def write(study: Study, piece: Piece) -> dict[str, Any]:
    """Write or attack one part; what it took."""
    start = time.perf_counter()
    texts = piece.texts
    if texts.attack == "none":
        made = write_part(study, texts, piece.part)
    else:
        originals = _part(study, texts.written, piece.part)
        seed = study.number(1 << 62, "attack", texts.attack, piece.part)
        strings = attacked(texts.attack, [text.text for text in originals], seed)
        made = [replace(t, text=string) for t, string in zip(originals, strings, strict=True)]
    save_part(study, texts, piece.part, made)
    return {
        "work": "write" if texts.attack == "none" else "attack",
        "name": texts.method if texts.attack == "none" else texts.attack,
        "size": sum(len(text.tokens) for text in made),
        "seconds": round(time.perf_counter() - start, 3),
    }


def _part(study: Study, texts: TextSet, part: int) -> list[Any]:
    first = part * study.batch_size
    return [t for t in load(study, texts, first + study.batch_size) if t.number >= first]


def test(study: Study, points: Sequence[Point]) -> dict[str, Any]:
    """Test some points; what it took."""
    start = time.perf_counter()
    for point in points:
        testing.evaluate(study, point)
    return {
        "work": "test",
        "name": points[0].test,
        "size": sum(point.count for point in points),
        "seconds": round(time.perf_counter() - start, 3),
    }


@dataclass
class Runner:
    """Makes what experiments need.

    processes, testers : how many write at once, and how many test. note : is told, a line at a time, what could not be
    done.
    """

    study: Study
    processes: int
    testers: int
    note: Callable[[str], object]

    def run(self, points: Iterable[Point], extra: Iterable[tuple[TextSet, int]] = ()) -> Outcome:
        """Write, attack and test what is missing.

        Parameters
        ----------
        points : iterable of Point
        extra : iterable of (TextSet, count)
            Texts that are looked at without a test.

        Raises
        ------
        WatermarkError
            For prompts or files of an earlier run that cannot be read, a model that cannot be loaded, or a process that
            ended too early. (An attack that cannot be run is no error but part of the outcome.)
        """
        outcome = Outcome()
        wanted = merged(points)
        counts = text_counts(wanted, extra)
        self.study.folder.mkdir(parents=True, exist_ok=True)
        written = [texts for texts in counts if texts.attack == "none"]
        attacked = [texts for texts in counts if texts.attack != "none"]
        with self._pool(self.processes) as pool:
            self._write(pool, "writing", written, counts, outcome)
            self._write(pool, "attacking", attacked, counts, outcome)
        with self._pool(max(self.processes, self.testers)) as pool:
            self._test(pool, [p for p in wanted if p.texts not in outcome.unavailable])
        for attack, why in dict.fromkeys((t.attack, w) for t, w in outcome.unavailable.items()):
            self.note(f"not run: attack {attack}: {why}")
        return outcome

    @contextmanager
    def _pool(self, processes: int) -> Iterator[ProcessPoolExecutor]:
        """Processes that share the cores, and end at once when something goes wrong."""
        with ProcessPoolExecutor(
            processes,
            mp_context=get_context("spawn"),
            initializer=begin,
            initargs=(self.study, max(1, available() // processes)),
        ) as pool:
            try:
                yield pool
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(error, BrokenProcessPool):
                    raise ended_early() from None
                raise

    def _write(
        self,
        pool: ProcessPoolExecutor,
        title: str,
        sets: Sequence[TextSet],
        counts: dict[TextSet, int],
        outcome: Outcome,
    ) -> None:
        pieces = missing_pieces(self.study, {texts: counts[texts] for texts in sets})
        for kind in dict.fromkeys(p.texts.kind for p in pieces if p.texts.attack == "none"):
            # A source that is of no use is found before hours of work with the others.
            all_prompts(self.study.model, kind, self.study.source(kind), 1)
        tasks = {pool.submit(write, self.study, piece): piece for piece in pieces}
        with progress_bar() as bar:
            task = bar.add_task(title, total=len(tasks))
            for done in as_completed(tasks):
                piece = tasks[done]
                try:
                    self._record(done.result())
                except Unavailable as error:
                    outcome.unavailable.setdefault(piece.texts, str(error))
                bar.advance(task)

    def _test(self, pool: ProcessPoolExecutor, points: Sequence[Point]) -> None:
        missing = [point for point in points if not testing.is_done(self.study, point)]
        by_texts: dict[object, list[Point]] = {}
        for point in missing:
            by_texts.setdefault((point.texts, point.test), []).append(point)
        groups = [
            one[first : first + POINTS_A_TASK]
            for one in by_texts.values()
            for first in range(0, len(one), POINTS_A_TASK)
        ]
        tasks = {pool.submit(test, self.study, some): some for some in groups}
        with progress_bar() as bar:
            task = bar.add_task("testing", total=len(missing))
            for done in as_completed(tasks):
                self._record(done.result())
                bar.advance(task, len(tasks[done]))

    def _record(self, took: dict[str, Any]) -> None:
        with timings_path(self.study).open("a", encoding="utf-8") as file:
            file.write(json.dumps(took) + "\n")


def ended_early() -> WatermarkError:
    """What is said of a process that was ended from outside."""
    return WatermarkError(
        "a process ended before its work was done (out of memory?): run the same again, which goes on where it was; "
        "--processes 1 needs the least memory"
    )


def timings_path(study: Study) -> Path:
    """What pieces took, a JSON object a line: work, name, size (tokens or texts), seconds of one process."""
    return study.folder / "timings.jsonl"


def available() -> int:
    """The cores that this process may use."""
    from wmcore.kernels.cpu.threads import available

    return available()


def text_counts(
    points: Iterable[Point], extra: Iterable[tuple[TextSet, int]] = ()
) -> dict[TextSet, int]:
    """How many texts of each set are needed, those that an attack starts from included."""
    counts: dict[TextSet, int] = {}
    needed = [(point.texts, point.count) for point in points] + list(extra)
    for texts, count in needed:
        for one in (texts.written, texts):
            counts[one] = max(counts.get(one, 0), count)
    return counts


def missing_pieces(study: Study, counts: dict[TextSet, int]) -> list[Piece]:
    """The parts that are not there."""
    return [
        Piece(texts, part)
        for texts, count in counts.items()
        for part in parts(study, count)
        if not part_path(study, texts, part).exists()
    ]
