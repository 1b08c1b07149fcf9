"""
What a message costs the gateway, in calls and in instructions: the same on each run, so that CI can hold it.

The fixed run (`fixed_run.py`) counts the functions that it calls, in Python and in C, and goes under valgrind's
cachegrind, which counts everything that the process executes. Two lengths of that run are subtracted, so that starting
counts for nothing.

Usage: `python benchmarks/counted.py [--update | --signed | --watched]`, from a source tree. It compares with
`counted.json`, which has figures for each minor version of Python, and ends with 1 if a message costs over a tenth
more; `--update` writes the figures down. Another build of the same version executes other instructions, so then their
ratio is only shown, and the calls alone decide. With `--signed` it only says how much more a message costs whose
request is signed, and with `--watched` how much the measuring of a gateway costs that has a port for operations.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "counted.json"
SHORT, LONG = 200, 700
ALLOWED = 1.10
BODIES = (20, 4096)
"""Bytes of the text of each message."""

EXTRAS = {"--signed": ("a signature", ("--sign", "v1")), "--watched": ("measuring for [operations]", ("--watched",))}
"""What can be added to a message, and the flags of the fixed run that has it."""

_COUNT = re.compile(r"I +refs: +([\d,]+)")


def instructions(messages: int, body: int, *flags: str) -> int:
    """Instructions of a whole run with so many messages, and with these flags of the fixed run."""
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            [
                *([] if shutil.which("setarch") is None else ["setarch", platform.machine(), "-R"]),
                *("valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={folder}/out"),
                *(sys.executable, str(HERE / "fixed_run.py"), str(messages), "--body", str(body), *flags),
            ],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
    count = _COUNT.search(found.stderr)
    if found.returncode or count is None:
        sys.exit(f"the fixed run failed: {found.stdout}{found.stderr}")
    return int(count[1].replace(",", ""))


def calls(body: int) -> int:
    """Functions that each message calls."""
    found = subprocess.run(
        [sys.executable, str(HERE / "fixed_run.py"), str(LONG), "--body", str(body), "--calls"],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout.split()[0])


def main(arguments: Sequence[str]) -> int:
    """Count, and compare; returns the exit status."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    before = baseline.get(version, {})
    same_build = before.get("build") == sys.version
    for what, extra in (EXTRAS[argument] for argument in arguments if argument in EXTRAS):
        for body in BODIES:
            plain, more = (
                instructions(LONG, body, *flags) - instructions(SHORT, body, *flags) for flags in ((), extra)
            )
            print(f"{what} costs a message with {body} bytes {more / plain - 1:.1%} more instructions")
    if not EXTRAS.keys().isdisjoint(arguments):
        return 0
    counts = {"calls": calls(BODIES[0])}
    if shutil.which("valgrind") is None:
        print("valgrind is not installed, so no instructions are counted (Debian: apt-get install valgrind)")
        if os.environ.get("COMPONENT_HTTP_REQUIRE_SERVERS") == "1":
            return 1
    else:
        for body in BODIES:
            counts[str(body)] = (instructions(LONG, body) - instructions(SHORT, body)) // (LONG - SHORT)
    worst = 0.0
    for name, count in counts.items():
        ratio = count / before.get(name, count)
        what = "calls" if name == "calls" else f"instructions with {name} bytes"
        print(f"Python {version}: {count} {what} a message, {ratio:.3f} of the baseline")
        if same_build or name == "calls":
            worst = max(worst, ratio)
    if "--update" in arguments:
        figures = {**before, **counts, "build": sys.version}
        BASELINE.write_text(json.dumps({**baseline, version: figures}, indent=2, sort_keys=True) + "\n")
    elif worst > ALLOWED:
        print(f"a message costs {worst:.2f} times the baseline; where that is right, --update writes it down")
        return 1
    elif not same_build:
        print(f"the instructions of this build of Python {version} have no baseline: --update writes one")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
