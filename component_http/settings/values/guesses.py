"""The name that was most likely meant by a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def nearest(name: object, candidates: Collection[str]) -> str | None:
    """Find the candidate that somebody who wrote `name` most likely meant; None if none is like it."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(str(name)[:200].lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def hint(near: str | None) -> str:
    """Write the end of a sentence that offers a name; "" for None."""
    return f"; did you mean {near}?" if near else ""


def did_you_mean(name: object, candidates: Collection[str]) -> str | None:
    """Write a remedy that offers one of several words; None if none is like `name`."""
    near = nearest(name, candidates) if len(candidates) > 1 else None
    return f'did you mean "{near}"?' if near else None
