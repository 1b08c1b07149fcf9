"""Print results and complaints, and the exit statuses that commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

from component_http.operations.terminal import moment, on_one_line

NOTHING = 1
"""Exit status: nothing fits, or something was not done."""

TRY_AGAIN = os.EX_TEMPFAIL
"""Exit status: the spool is busy, or the disk is full."""

NAMED = 10
"""Ids that a sentence names."""


def say(text: str) -> None:
    """Write a result to standard output; a character that its encoding lacks is written as an escape."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def say_json(value: object, *, indent: int | None = 2) -> None:
    say(json.dumps(value, indent=indent) + "\n")


def complain(text: str) -> None:
    """Write one line about a mistake or a failure to standard error."""
    print(f"component-http: {on_one_line(text)}", file=sys.stderr)


def note(text: str) -> None:
    """Write one line about a result to standard error, so that it is not taken for a part of the result."""
    print(text, file=sys.stderr)


def some(ids: Sequence[str], shown: Mapping[str, str] | None = None) -> str:
    """Name ids in a sentence, in shorter forms if there are some: the first ones, and how many more there are."""
    named = ", ".join((shown or {}).get(one, one) for one in ids[:NAMED])
    return f"{named} and {len(ids) - NAMED} more" if len(ids) > NAMED else named


def stamp(seconds: float | None) -> str | None:
    """Write a moment, given in seconds since the epoch, for another program: `2026-11-22T12:30:45Z`."""
    return None if seconds is None else moment(seconds).replace(" ", "T", 1).replace(" UTC", "Z")
