"""`Refused`: why a request gets no answer, in the one shape that all errors have."""

from typing import Any


class Refused(Exception):
    """A request that is not answered.

    Parameters
    ----------
    status : int
        Of HTTP.
    message : str
        What is wrong, without anything of a text, a token of access or a key.
    parameter : str, optional
        What of the request is meant, such as ``texts[3]``.
    limit : int, float or str, optional
        What it may be.
    remedy : str
        What to do.
    headers : dict, optional
        Of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        parameter: str | None = None,
        limit: int | float | str | None = None,
        remedy: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.parameter = parameter
        self.limit = limit
        self.remedy = remedy
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """What the answer holds."""
        return {
            "error": {
                "parameter": self.parameter,
                "message": self.message,
                "limit": self.limit,
                "remedy": self.remedy,
            }
        }


def too_busy(message: str, seconds: int, *, limit: int | None = None) -> Refused:
    """429: ask again after so many seconds."""
    return Refused(
        429,
        message,
        limit=limit,
        remedy=f"ask again in {seconds} s",
        headers={"Retry-After": str(seconds)},
    )
