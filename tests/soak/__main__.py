"""
`python -m tests.soak [NAME ...]`: the scenarios one after the other, and the table of what they showed.

Ends with 1 if anything was missed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import tomllib
from collections.abc import Sequence

import pytest

from tests.soak.plan import Plan
from tests.soak.report import Report, table
from tests.soak.scenarios import SCENARIOS


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Fault scenarios with real processes.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; all without one")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default 1)")
    parser.add_argument("--short", action="store_true", help="some seconds of each, as `make soak-short` does")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="a setting of the gateway that wins over the scenarios' own",
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}")
    plan = Plan(options.short, options.seed, tomllib.loads("\n".join(options.set)))
    reports: list[Report] = []
    for name in options.names or SCENARIOS:
        since = time.monotonic()
        try:
            report = SCENARIOS[name](plan)
        except pytest.skip.Exception as skipped:
            print(f"{name} left out: {skipped}\n", flush=True)
            continue
        except AssertionError as failed:
            report = Report(name, "did not come to its end", plan.seed)
            report.check("it came to its end", False)
            report.notes.append(str(failed)[-3000:])
        print(f"{report.text()}\n  took {time.monotonic() - since:.0f} s\n", flush=True)
        reports.append(report)
    print(table(reports))
    return 1 if any(report.missed() for report in reports) else 0


if __name__ == "__main__":
    # So that `with` statements end what they started.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
