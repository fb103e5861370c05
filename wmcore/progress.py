"""The one progress bar of the command and of `generate`."""

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
