"""How many inputs a run makes and from which seed: the environment variables FUZZ and FUZZ_SEED."""

import os
from collections import Counter

import hypothesis

CUT = 300
"""Inputs of a run in `make test`."""

COUNT = int(os.environ.get("FUZZ") or CUT)
SEED = int(os.environ.get("FUZZ_SEED") or 1)
spent: Counter[str] = Counter()
"""Inputs that were made so far, by test."""

QUIET = (
    hypothesis.HealthCheck.too_slow,
    hypothesis.HealthCheck.data_too_large,
    hypothesis.HealthCheck.large_base_example,
    hypothesis.HealthCheck.function_scoped_fixture,  # a test that uses one clears its folder itself
)
PHASES = (hypothesis.Phase.generate, hypothesis.Phase.target, hypothesis.Phase.shrink)


def inputs(share, **strategies):
    """Decorator: run a test with this share of the inputs, drawn from these strategies."""

    def decorate(test):
        def counted(*arguments, **drawn):
            spent[test.__name__] += 1
            test(*arguments, **drawn)

        # What pytest and hypothesis read of a test: its name, its place and its parameters.
        counted.__name__, counted.__doc__ = test.__name__, test.__doc__
        counted.__module__, counted.__qualname__ = test.__module__, test.__qualname__
        counted.__wrapped__ = test
        run = hypothesis.given(**strategies)(counted)
        run = hypothesis.settings(
            max_examples=max(1, round(share * COUNT)),
            deadline=None,
            database=None,
            phases=PHASES,
            suppress_health_check=QUIET,
            print_blob=False,
        )(run)
        return hypothesis.seed(SEED)(run)

    return decorate
