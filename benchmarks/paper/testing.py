"""TESTS: how text is tested. A new statistic or baseline is an entry here."""

from collections.abc import Sequence

import numpy as np

from wmcore.detect import Detector
from wmcore.key import Key
from wmcore.paper.contract import Test, Trial
from wmcore.paper.kirchenbauer import kgw_p_values
from wmcore.paper.methods import GREEN
from wmcore.paper.synthid import synthid_p_values
from wmcore.schemes import SCHEMES
from wmcore.types import SchemeName
from wmcore.watermark import Watermark


def ours(scheme: SchemeName, title: str, **options: object) -> Test:
    """A scheme of wmcore; options: of `Detector`, unless the trial has others."""

    def p_values(texts: Sequence[np.ndarray], secrets: Sequence[bytes], trial: Trial) -> np.ndarray:
        p = np.full(len(texts), np.nan)
        for secret in dict.fromkeys(secrets):
            mark = Watermark.create(
                scheme, vocab_size=trial.vocab_size, key_length=trial.key_length, key=Key(secret)
            )
            detector = Detector(mark, threads=1, **{**options, **trial.options})
            places = [i for i, one in enumerate(secrets) if one == secret]
            found = detector.detect(
                [texts[i] for i in places],
                resamples=trial.resamples,
                stop_after=trial.stop_after,
                seed=trial.seed,
            )
            p[places] = [np.nan if d.p_value is None else d.p_value for d in found]
        return p

    return Test(title, SCHEMES[scheme].sampler, p_values)


TESTS: dict[str, Test] = {
    "exp": ours("exp", "EXP"),
    "exp-edit": ours("exp-edit", "EXP-edit", gap=SCHEMES["exp-edit"].published_gap),
    "exp-free": ours("exp-free", "EXP-free"),
    "exp-local": ours("exp-local", "EXP-local"),
    "its": ours("its", "ITS"),
    "its-edit": ours("its-edit", "ITS-edit", gap=SCHEMES["its-edit"].published_gap),
    "its-free": ours("its-free", "ITS-free"),
    "kgw": Test("KGW", "kgw", kgw_p_values(GREEN)),
    "synthid": Test("SynthID", "synthid", synthid_p_values),
}
"""By name; exp-edit and its-edit with the published gaps."""

BUILT_IN = frozenset(TESTS)
"""Those that are known by their names; others by the module that added them, too."""
