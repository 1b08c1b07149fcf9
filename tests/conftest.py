"""
What the whole suite has in common: how it is spread over processes, how many examples Hypothesis makes, and what the
end of a run says: which real counterparts were missing, and how many of the recorded vectors held on which server.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from _pytest.terminal import TerminalReporter

from tests.integration.counterparts import MISSING

# Before any test is imported: a test that says nothing about examples takes these. How long an example takes says
# something about the machine only.
hypothesis.settings.register_profile(
    "quick", max_examples=30, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "thorough", hypothesis.settings.get_profile("quick"), max_examples=200, print_blob=True
)
hypothesis.settings.load_profile("thorough" if os.environ.get("COMPONENT_HTTP_THOROUGH") == "1" else "quick")

INDEPENDENT = {
    "test_api_faults",
    "test_clock",
    "test_daemon",
    "test_doors",
    "test_first_evening",
    "test_letters",
    "test_playground",
    "test_short",
    "test_spool",
    "test_stream_faults",
}
"""The modules of integration tests whose functions share nothing, so that each may run in another process."""

SHARED = ("prosody", "ejabberd", "stand-in", "php", "node", "python")
"""The parameters of fixtures that a module's tests share."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spread the tests over the processes of `pytest -n`, such that what takes long to start is started once."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def scope(nodeid: str) -> str:
    """
    Name the tests that run in one process, in order.

    Returns:
        The same for the tests of a class, and for those functions of a module that share fixtures.
    """
    above, _, name = nodeid.rpartition("::")
    if Path(above).stem in INDEPENDENT:
        return nodeid
    parameters = name.partition("[")[2].removesuffix("]").split("-")
    return "-".join([above, *(one for one in SHARED if one in parameters)])


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
