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
        "the least important lines that are logged; debug adds one for each stanza",
        default="info",
        why="to write a line costs a tenth of a stanza's way through the gateway",
    )
