"""``wmcore demo``: write texts with a watermark, damage them, find the watermark."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TextIO

from wmcore import token_page
from wmcore.attacks import damage
from wmcore.cli.console import show_table, table_console
from wmcore.detect import Detection, Detector
from wmcore.generation import Generation, generate
from wmcore.locate import Span, local_detector, locate
from wmcore.models import load_model
from wmcore.pages import format_p
from wmcore.records import printable
from wmcore.schemes import scheme_of
from wmcore.watermark import Watermark

DAMAGE = 0.3  # of the tokens: a third of it substituted, a third deleted, a third inserted
RESAMPLES = 999
FOUND = 0.01  # the p-value at or below which the demo counts a watermark as found
KINDS = ("plain", "marked", "damaged")
ABOUT = (
    "written without the watermark",
    "written with the watermark",
    f"the marked text with {100 * DAMAGE:.0f}\N{NO-BREAK SPACE}% of its tokens changed, deleted or inserted",
)


@dataclass(frozen=True)
class Trial:
    """One prompt under one scheme: three versions of its continuation, in the order of `KINDS`."""

    scheme: str
    prompt: str
    text: str
    tokens: tuple[list[int], list[int], list[int]]
    detections: tuple[Detection, Detection, Detection]
    spans: tuple[list[Span], list[Span], list[Span]]


def openings() -> list[dict[str, str]]:
    """The prompts: ``kind`` (``news`` or ``instruction``) and ``prompt``."""
    lines = files("wmcore").joinpath("data/openings.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in lines.splitlines()]


def run(
    schemes: Sequence[str],
    page: TextIO,
    *,
    seed: int,
    stage: Callable[[str], object],
    model_name: str = "smollm2",
    max_new_tokens: int = 150,
) -> list[Trial]:
    """Write, damage and test texts under each scheme; print the table and write the page.

    Parameters
    ----------
    schemes
        The schemes to show, one after the other.
    page
        Where the HTML goes.
    seed
        Of the shifts, the controls, the damage and the resampled keys. The watermark keys are new, one a sampler.
    stage
        Told what is being done, one short line at a time.
    model_name, max_new_tokens
        What writes, and how many tokens it may add.
    """
    stage(f"loading {model_name}")
    model, tokenizer = load_model(model_name)
    shown = [opening["prompt"] for opening in openings()]
    prompts = [as_prompt(tokenizer, opening) for opening in openings()]
    options = {
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "tokenizer": tokenizer,
        "eos": False,  # texts of one length, so that their p-values compare
    }

    stage(f"writing {len(prompts)} texts without a watermark")
    plain = generate(model, prompts, None, **options)
    trials: list[Trial] = []
    vocab_size = model.config.get_text_config().vocab_size
    written: dict[str, tuple[Watermark, list[Generation]]] = {}
    for scheme in map(scheme_of, schemes):
        sampler = scheme.sampler
        if sampler not in written:  # schemes of one sampler test the same texts
            watermark = Watermark.create(scheme.name, vocab_size=vocab_size, tokenizer=model_name)
            stage(f"writing {len(prompts)} texts with {sampler} sampling")
            written[sampler] = watermark, generate(model, prompts, watermark, **options)
        watermark, marked = written[sampler]
        stage(f"testing them with {scheme.name}, {RESAMPLES} resamples each")
        detector = Detector(watermark, scheme=scheme.name)
        trials += detect_versions(detector, shown, plain, marked, seed)
    page.write(to_html(trials, tokenizer, model_name))
    print_table(trials)
    return trials


def as_prompt(tokenizer: Any, opening: dict[str, str]) -> str:
    """The prompt as the model is to read it: instructions in its chat format, when it has one."""
    if opening["kind"] != "instruction" or not getattr(tokenizer, "chat_template", None):
        return opening["prompt"]
    message = {"role": "user", "content": opening["prompt"]}
    return str(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True))


def detect_versions(
    detector: Detector,
    shown: Sequence[str],
    plain: Sequence[Generation],
    marked: Sequence[Generation],
    seed: int,
) -> list[Trial]:
    """Damage the marked texts and detect in the three versions of each."""
    versions = []
    vocab_size = detector.watermark.vocab_size
    for i, (without, made) in enumerate(zip(plain, marked, strict=True)):
        damaged = damage(made.tokens, DAMAGE, vocab_size=vocab_size, seed=(seed, i))
        versions.append((without.tokens, made.tokens, damaged.tolist()))
    flat = [tokens for version in versions for tokens in version]
    found = detector.detect(flat, resamples=RESAMPLES, seed=seed, alignment=True)
    local = local_detector(detector)
    spans = [locate(local, tokens, level=FOUND, resamples=RESAMPLES, seed=seed) for tokens in flat]
    trials = []
    for i, (prompt, made, version) in enumerate(zip(shown, marked, versions, strict=True)):
        a, b, c = found[3 * i : 3 * i + 3]
        x, y, z = spans[3 * i : 3 * i + 3]
        scheme = detector.statistic.scheme.name
        trials.append(Trial(scheme, prompt, made.text or "", version, (a, b, c), (x, y, z)))
    return trials


def share_found(trials: Sequence[Trial], kind: int) -> str:
    """How many texts of a kind have a p-value that counts as found, as ``found/all``."""
    p_values = [t.detections[kind].p_value for t in trials]
    return f"{sum(p is not None and p <= FOUND for p in p_values)}/{len(p_values)}"


def by_scheme(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """The trials of each scheme, in order."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.scheme, []).append(trial)
    return groups


def print_table(trials: Sequence[Trial]) -> None:
    """The table on standard output: one row a text, one line a scheme to sum up."""
    from rich.table import Table
    from rich.text import Text

    console = table_console(110)
    room = max(console.width - 64, 16)  # what the other columns leave
    table = Table(title="p-values: small where the watermark is found")
    for name in ("scheme", "text", "tokens"):
        table.add_column(name, no_wrap=True, justify="right" if name == "tokens" else "left")
    for kind in KINDS:
        table.add_column(f"p\n{kind}", no_wrap=True, justify="right")
    for scheme, group in by_scheme(trials).items():
        for t in group:
            p_values = [format_p(d.p_value) for d in t.detections]
            start = " ".join(t.text.split())[:room]
            table.add_row(scheme, Text(printable(start)), str(len(t.tokens[1])), *p_values)
        sums = [share_found(group, kind) for kind in range(len(KINDS))]
        table.add_row(scheme, f"p ≤ {FOUND}", "", *sums, style="bold", end_section=True)
    show_table(console, table)


def to_html(trials: Sequence[Trial], tokenizer: Any, model_name: str) -> str:
    """The page of `token_page` for all trials."""
    sections = []
    for scheme, group in by_scheme(trials).items():
        shares = (share_found(group, kind).replace("/", " of ") for kind in range(len(KINDS)))
        counts = (f"{share} {kind} texts" for share, kind in zip(shares, KINDS, strict=True))
        examples = [
            token_page.Example(" ".join(t.prompt.split())[:70], _versions(t, tokenizer), t.prompt)
            for t in group
        ]
        summary = f"Found, with p ≤ {FOUND}, in {', '.join(counts)}."
        sections.append(token_page.Section(scheme, summary, examples))
    return token_page.render(f"Watermarked text by {model_name}", sections)


def _versions(trial: Trial, tokenizer: Any) -> list[token_page.Passage]:
    """The three versions of a text as the page shows them."""
    versions = zip(KINDS, trial.tokens, trial.detections, trial.spans, ABOUT, strict=True)
    return [
        token_page.passage(
            kind, trial.scheme, tokenizer, tokens, detection, spans, about=about, threshold=FOUND
        )
        for kind, tokens, detection, spans, about in versions
    ]
