"""The one progress bar of the command and of `generate`."""

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


def progress_bar(*columns: Any, wanted: bool = True) -> "Progress":
    """A bar on standard error that leaves nothing behind; where that is no terminal, nothing is shown.

    Parameters
    ----------
    *columns : str or rich.progress.ProgressColumn
        What it shows; without any, what rich shows.
    wanted : bool
        False shows nothing on a terminal either.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(
        *columns,
        console=console,
        disable=not (wanted and console.is_terminal),
        transient=True,
    )


def busy(words: str) -> "Progress":
    """What is being done, and for how long already: `with busy("loading"): ...`. Nobody knows how long it takes."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    bar = progress_bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    bar.add_task(words, total=None)
    return bar


class Pace:
    """A bar for documents whose number is not known: how many are done, how fast, and how long it will take."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

        self._bar = progress_bar(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._task = self._bar.add_task("documents", total=None)
        self._began = time.monotonic()

    def __enter__(self) -> "Pace":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, count: int, share: float | None) -> None:
        """So many documents are done, and this share of the input was read (None: who knows)."""
        seconds = time.monotonic() - self._began
        left = f", {duration(seconds / share - seconds)} left" if share else ""
        self._bar.update(
            self._task,
            total=1.0 if share else None,
            completed=share or 0.0,
            description=f"{count:,} documents, {count / max(seconds, 1e-9):,.1f}/s{left}",
        )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
