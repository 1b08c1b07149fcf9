"""One thing that `component-http doctor` has found."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

NAME = "component-http-doctor"
"""The local part of the address that messages of the doctor come from."""

CLOCKS_APART = 30.0
"""Seconds that our clock and another one may differ: signatures are good for a few minutes."""

Level = Literal["ok", "note", "warning", "error"]


@frozen
class Finding:
    """
    One thing that was found.

    Attributes:
        level: `error`: it keeps the gateway from working. `warning`: it should be better. `note`: it was not looked at.
        about: What was looked at.
        sentence: What was found, and what to do.
    """

    level: Level
    about: str
    sentence: str
