"""
What the whole suite has in common: the end of a run says which real counterparts were missing, and how many of the
recorded vectors held on which server.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from tests.integration.counterparts import MISSING


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a working directory of its own, so that what trial's `mktemp` makes does not litter the tree."""
    monkeypatch.chdir(tmp_path)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print both, if there is anything to print."""
    missing: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if MISSING in reason:
            missing[reason.partition(f"{MISSING}: ")[2]] += 1
    if missing:
        terminalreporter.section("NOT TESTED: a real counterpart is missing", red=True, bold=True)
        for reason, count in missing.items():
            terminalreporter.line(f"{count} tests skipped: {reason}")

    asked: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if isinstance(report, pytest.TestReport) and report.when == "call":
                server = dict(report.user_properties).get("vector_on")
                if isinstance(server, str):
                    asked[server] += 1
                    held[server] += outcome == "passed"
    for server, count in asked.items():
        terminalreporter.line(f"vectors of mod_component_http through {server}: {held[server]} of {count} hold")
