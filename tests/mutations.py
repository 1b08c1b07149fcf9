"""
`python -m tests.mutations [NAME ...]`: whether the unit tests notice a mistake in each of ten core decisions.

Each mistake is made in a copy of the package, and the tests that should know are run on it.
Ends with 1 if one was missed, or if the place for it is not found, which is to be told it anew then.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

__all__ = ["MUTATIONS", "Mutation"]

SOURCES = Path(__file__).parents[1]


@frozen
class Mutation:
    """
    One mistake.

    Attributes:
        decision: What is decided there.
        modules: Where it is, as a pattern of files below the package; it may move from one to another of these.
        pattern: What is written there; it must be found exactly once in all of them.
        mistake: What takes its place.
        tests: The file that should notice.
        select: Which tests of that file, as `pytest -k` has it; all without it.
    """

    decision: str
    modules: str
    pattern: str
    mistake: str
    tests: str
    select: str = ""


MUTATIONS = {
    "retry": Mutation(
        "a 503 says nothing about the stanza, so it is retried until the deadline",
        "delivery/*.py",
        r"(?<=frozenset\(\{)429, 502, 503, 504(?=\}\))",
        "429, 502, 504",
        "test_retry.py",
    ),
    "backlog": Mutation(
        "of a conversation the delivery that came first is POSTed first",
        "delivery/*.py",
        r"(?<=\.behind\.popitem\()last=False(?=\))",
        "last=True",
        "test_backlog.py",
    ),
    "breaker": Mutation(
        "one conversation alone does not open the breaker",
        "delivery/*.py",
        r"len\(self\._failed\) >= self\._in_a_row",
        "self._row >= self._in_a_row",
        "test_breaker.py",
    ),
    "dead-letter": Mutation(
        "a delivery that is given up leaves a dead letter",
        "delivery/*.py",
        r"(?<== )\w*letter\(delivery, verdict\) if keep\w* else None",
        "None",
        "test_delivery.py",
        "Letter",
    ),
    "loop-guard": Mutation(
        "a conversation gets only so many replies within a time",
        "delivery/*.py",
        r"answers\.replies \+ replies > self\._replies",
        "answers.replies > 2 * self._replies",
        "test_loop_guard.py",
    ),
    "admission": Mutation(
        "a conversation that is full takes no more",
        "delivery/*.py",
        r"in_conversation >= limits\.max_per_conversation",
        "in_conversation > limits.max_per_conversation",
        "test_backlog.py",
    ),
    "outbox": Mutation(
        "what leaves does so in the order in which it was kept",
        "spool/*.py",
        r"(?<=FROM departures WHERE number > \? ORDER BY number)(?=\")",
        " DESC",
        "test_spool_suite.py",
    ),
    "barrier": Mutation(
        "a ping that came back confirms only what was written before it",
        "xmpp/*.py",
        r"\.confirm\(covers\)",
        ".confirm(self._queue.written)",
        "test_stream.py",
        "Barrier or Refusal or Fallback",
    ),
    "tls": Mutation(
        "a certificate for another name is refused",
        "*.py",
        r"return \"the certificate is for another name\"",
        "return None",
        "test_tls.py",
    ),
    "idempotency": Mutation(
        "an idempotency key that stands for another request is refused",
        "api/*.py",
        r"earlier\.fingerprint != record\.fingerprint",
        "False",
        "test_api.py",
        "Idempotency",
    ),
}


def make(mutation: Mutation, package: Path) -> str:
    """
    Make a mistake in a copy of the package.

    Returns:
        Why it could not be made; "" if it was.
    """
    found = []
    for path in sorted(package.glob(mutation.modules)):
        source = path.read_text()
        mutated, times = re.subn(mutation.pattern, lambda _: mutation.mistake, source)
        if times:
            found.append((path, mutated, times))
    if sum(times for *_, times in found) != 1:
        places = ", ".join(f"{times} times in {path.name}" for path, _, times in found) or "nowhere"
        return f"NOT FOUND: {mutation.pattern!r} stands {places} in {mutation.modules}, and should once"
    [(path, mutated, _)] = found
    path.write_text(mutated)
    return ""


def judge(mutation: Mutation) -> tuple[bool, str]:
    """Make a mistake and run the tests; returns whether they noticed, and what is to be said of it."""
    with tempfile.TemporaryDirectory(prefix="component-http-mutation-") as folder:
        copy = Path(folder)
        for name in ("component_http", "tests", "twisted", "docs", "examples"):
            shutil.copytree(SOURCES / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        for name in ("pyproject.toml", "setup.cfg", "README.md"):
            shutil.copy(SOURCES / name, copy)
        problem = make(mutation, copy / "component_http")
        if problem:
            return False, problem
        run = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=no"]
        run += [f"tests/unit/{mutation.tests}", *(["-k", mutation.select] if mutation.select else [])]
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        ended = subprocess.run(run, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    # 1 is pytest's status for tests that failed; with 2 and more they did not run.
    if ended.returncode == 1:
        failed = re.search(r"^(?:FAILED|ERROR) \S+?::(\S+)", ended.stdout, re.MULTILINE)
        return True, f"caught by {failed[1] if failed else 'a test'}"
    if ended.returncode == 0:
        return False, f"MISSED by {mutation.tests}"
    return False, f"NOT RUN: {ended.stdout}{ended.stderr}"


def main(arguments: Sequence[str]) -> int:
    """Make the mistakes that are asked for, one after the other; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MUTATIONS)}; all without one")
    names = parser.parse_args(arguments).names or list(MUTATIONS)
    unknown = [name for name in names if name not in MUTATIONS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}")
    caught = 0
    for name in names:
        noticed, words = judge(MUTATIONS[name])
        caught += noticed
        print(f"{name:12} {words}\n{'':12} ({MUTATIONS[name].decision})", flush=True)
    print(f"{caught} of {len(names)} mistakes caught")
    return 0 if caught == len(names) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
