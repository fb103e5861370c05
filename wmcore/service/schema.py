"""What goes in and out, for the OpenAPI document; `routes` makes the same."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

EXAMPLE = "The quick brown fox …"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Texts(_Strict):
    """Texts to test."""

    texts: list[str] = Field(min_length=1, examples=[[EXAMPLE]])


class Tokens(_Strict):
    """Texts to test, as token ids of the watermark's tokenizer."""

    tokens: list[list[int]] = Field(min_length=1, examples=[[[1, 2, 3]]])


class Span(_Strict):
    """A passage: tokens start .. stop - 1, and its characters (Unicode code points) where they are known."""

    start: int
    stop: int
    char_start: int | None
    char_stop: int | None


class Result(_Strict):
    """What is said of one text. A coarse tier gets `verdict` and `error` alone."""

    verdict: Literal["found", "not found", "too short", "not tested"]
    error: str | None = Field(description="Why there is no answer, or none under some watermarks.")
    p_value: float | None = Field(
        None, description="Share of texts without the watermark that fit as well; corrected."
    )
    statistic: float | None = Field(None, description="Lower fits better.")
    length: int | None = Field(None, description="Tokens.")
    span: Span | None = Field(None, description="The strongest passage of a text that is found.")
    watermark: str | None = Field(None, description="Which was found.")
    key: str | None = Field(None, description="Fingerprint of its key.")
    windows: int = Field(1, description="In how many windows a long text was tested.")


class Line(Result):
    """A line of the stream."""

    index: int = Field(description="Which text of the request.")


class Answers(_Strict):
    """A result for each text, in order."""

    results: list[Result]
    technique: str
    key: str | None = Field(description="Fingerprint; null where there are several keys.")
    level: float
    meaning: str
    version: str


class Info(_Strict):
    """What this detector is."""

    technique: str
    paper: str
    schemes: list[str]
    keys: list[str] = Field(description="Fingerprints.")
    level: float
    meaning: str
    limits: dict[str, Any]
    tokenizer: bool = Field(description="Whether texts are read, and not token ids alone.")
    version: str
    links: dict[str, str]


class Health(_Strict):
    """Whether the service answers."""

    status: Literal["ready", "starting"]


class Error(_Strict):
    """What is wrong with a request."""

    parameter: str | None
    message: str
    limit: int | float | str | None
    remedy: str


class Problem(_Strict):
    """Any answer that is none."""

    error: Error
