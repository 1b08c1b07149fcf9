"""
What the gateway promises, while its webhook, its server and its load do their worst: some seconds of each scenario.

`make soak-short` runs these; the full forms, with the figures about time and memory, are run by `make soak`.
"""

from __future__ import annotations

import pytest

from tests.soak.plan import Plan
from tests.soak.scenarios import SCENARIOS

SEED = 1


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_promises_hold_under_fault(name: str) -> None:
    """
    Nothing is lost, answered twice or out of order, and the limits of the scenario are kept.
    """
    report = SCENARIOS[name](Plan(short=True, seed=SEED))
    assert not report.missed(timing=False), report.text()
