"""
Run wokkel's own test suite under `component_http.compat`, and compare its failures with the list of known ones.

Run as `python -m tests.wokkel_suite`. The exit status is 0 if nothing failed but what is listed here, and all that
always fails did: then this list, and what `compat` promises, are still true.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from attrs import frozen
from twisted.trial.reporter import Reporter
from twisted.trial.runner import TestLoader, TrialRunner

import component_http.compat  # noqa: F401  (before anything of wokkel)

__all__ = ["KNOWN", "KnownFailure", "disagreements", "main"]


@frozen
class KnownFailure:
    """
    A test of wokkel 18.0.0 that does not pass on current Twisted.

    Attributes:
        test: Its name.
        reason: Why, and why it does not concern us.
        always: False if chance decides.
    """

    test: str
    reason: str
    always: bool = True


_TWO_WARNINGS = (
    "it wants to see no warning but its own, and its helper calls twisted.python.compat.iteritems, deprecated since;"
    " the gateway has no roster"
)

KNOWN = (
    KnownFailure(
        "wokkel.test.test_client.ClientCreatorTest.test_call",
        "it expects SRVConnector.domain to be text, which is bytes in Twisted today; the gateway is no client",
    ),
    KnownFailure("wokkel.test.test_xmppim.RosterClientProtocolTest.test_onRosterRemove", _TWO_WARNINGS),
    KnownFailure("wokkel.test.test_xmppim.RosterClientProtocolTest.test_onRosterSet", _TWO_WARNINGS),
    KnownFailure(
        "wokkel.test.test_component.ComponentTest.test_stopServiceNoReconnect",
        "it stops a component after exactly the mean of a random delay, and if that is over, its fake connector has"
        " nothing to stop; the gateway does not use wokkel.component",
        always=False,
    ),
)


def disagreements(failed: Collection[str], known: Collection[KnownFailure] = KNOWN) -> list[str]:
    """
    What is not as the list says.

    Args:
        failed: The names of the tests that failed.
        known: The list.

    Returns:
        A sentence each.
    """
    listed = {failure.test: failure for failure in known}
    unlisted = [f"{test} failed, and is not known to" for test in sorted(set(failed) - listed.keys())]
    mended = [
        f"{test} passed, and is known to fail: take it off the list"
        for test, failure in listed.items()
        if failure.always and test not in failed
    ]
    return unlisted + mended


def main() -> int:
    """Run the suite; return the exit status."""
    output = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        runner = TrialRunner(Reporter, stream=output, workingDirectory=str(Path(folder, "trial")))
        result = runner.run(TestLoader().loadByName("wokkel", recurse=True))
    # A module that could not be imported is among them too, by its name.
    failed = {test.id() for test, _ in [*result.failures, *result.errors]}
    for failure in KNOWN:
        if failure.test in failed:
            print(f"known to fail: {failure.test}\n    {failure.reason}")
    problems = disagreements(failed)
    if problems:
        print(output.getvalue())
        print("\n".join(problems), file=sys.stderr)
    print(f"wokkel's own suite: {result.successes} of {result.testsRun} pass, {len(problems)} not as expected")
    return 1 if problems or not result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
