"""``wmcore bench list``: what there is, what is done, and how long the rest takes, from what pieces took before."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from wmcore.cli.console import show_table, table_console
from wmcore.paper.points import is_done
from wmcore.paper.run import missing_pieces, text_counts, timings_path
from wmcore.paper.study import Study, model_of
from wmcore.paper.texts import parts

if TYPE_CHECKING:
    from wmcore.paper.command import Plan

PROBED = 16
GUESS = 0.01
"""Seconds a test, where none was made yet."""


def show(study: Study, plans: "Sequence[Plan]", processes: int) -> None:
    """A table on standard output: a row an experiment."""
    from rich.table import Table

    speeds = Speeds(study)
    table = Table(title=f"Experiments with {study.model} in {study.folder}")
    for name in ("name", "what", "texts", "tests", "done", "minutes left"):
        table.add_column(name, justify="left" if name in ("name", "what") else "right")
    for one in plans:
        lacking = set(one.experiment.needs) - study.sources.keys()
        if lacking:
            needs = ", ".join(f"--{kind}" for kind in sorted(lacking))
            table.add_row(one.name, one.experiment.title, "", "", "", f"give {needs}")
            continue
        counts = text_counts(one.points, one.texts)
        pieces = missing_pieces(study, counts)
        tests = [point for point in one.points if not is_done(study, point)]
        total = sum(len(parts(study, count)) for count in counts.values()) + len(one.points)
        left = len(pieces) + len(tests)
        seconds = sum(speeds.of(piece.texts, study.batch_size) for piece in pieces)
        seconds += sum(speeds.test(point.test) * point.count for point in tests)
        table.add_row(
            one.name,
            one.experiment.title,
            f"{sum(counts.values()):,}",
            f"{sum(point.count for point in one.points):,}",
            f"{1 - left / total:.0%}" if total else "",
            f"{seconds / processes / 60:.1f}",
        )
    show_table(table_console(110), table)


class Speeds:
    """Seconds a token of each method and attack, and a test of each kind: from the folder's timings, or a probe."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._seconds: dict[tuple[str, str], float] = {}
        self._sizes: dict[tuple[str, str], int] = {}
        path = timings_path(study)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            with suppress(ValueError):  # the last line of a run that was killed, or of a full disk
                self._add(json.loads(line))

    def _add(self, took: dict[str, Any]) -> None:
        for key in ((took["work"], took["name"]), (took["work"], "")):
            self._seconds[key] = self._seconds.get(key, 0.0) + took["seconds"]
            self._sizes[key] = self._sizes.get(key, 0) + took["size"]

    def _rate(self, work: str, name: str) -> float | None:
        """Seconds a unit of what is most like it."""
        for key in ((work, name), (work, "")):
            if self._sizes.get(key):
                return self._seconds[key] / self._sizes[key]
        return None

    def of(self, texts: Any, count: int) -> float:
        """Seconds of one process to write, or attack, `count` texts."""
        if texts.how.writer is None:
            return 0.0
        tokens = count * texts.new_tokens
        if texts.attack != "none":
            rate = self._rate("attack", texts.attack) or self._rate("write", "") or self._probe()
        else:
            rate = self._rate("write", texts.method) or self._probe()
        return tokens * rate

    def test(self, name: str) -> float:
        return self._rate("test", name) or GUESS

    def _probe(self) -> float:
        """Seconds a token, from a few steps of the model."""
        import torch

        from wmcore.stepping import Stepper

        torch.set_num_threads(1)
        model, tokenizer = model_of(self._study.model, self._study.device)
        batch = self._study.batch_size
        prompt = tokenizer("The weather was fine.", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            stepper = Stepper(model, [prompt] * batch, PROBED)
            for step in range(PROBED):
                if step == 1:
                    start = time.perf_counter()
                stepper.append(stepper.logits().argmax(-1))
        seconds = time.perf_counter() - start
        self._add({"work": "write", "name": "", "size": batch * (PROBED - 1), "seconds": seconds})
        return seconds / (batch * (PROBED - 1))
