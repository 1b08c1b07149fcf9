"""The table [log]."""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from component_http.log import LEVELS
from component_http.settings.declaration import Table, setting
from component_http.settings.values.plain import choice


@frozen
class LogSettings(Table):
    """The log."""

    TABLE: ClassVar[str] = "log"

    level: str = setting(
        choice(*LEVELS),
        "the lowest level of the lines that are logged; debug adds a line for each stanza",
        default="info",
        why="a line for each stanza takes a tenth of the time that a stanza takes",
    )
