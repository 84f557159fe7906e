"""How many inputs the property tests try: some hundreds in CI, ten thousand and more in the nightly form."""

import os

from hypothesis import HealthCheck, settings

NIGHTLY = os.environ.get("ATTNORM_NIGHTLY") == "1"  # set by `make nightly`


def fuzzed(few: int, many: int = 10_000) -> settings:
    """Settings for a test of `few` cases, the same ones in every run, or of `many` others in the nightly form.

    A fixture such as `tally` lives as long as the test, not as a case: that is meant.
    """
    return settings(
        max_examples=many if NIGHTLY else few,
        derandomize=not NIGHTLY,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
        ],
    )
