"""What a scenario found, as a line of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field, frozen

__all__ = ["Check", "Report", "table"]


@frozen
class Check:
    """
    Something that must hold.

    Attributes:
        what: In words.
        held: Whether it did.
        timing: It is about time or memory, so it is asked of the full form only.
    """

    what: str
    held: bool
    timing: bool = False


@define
class Report:
    """
    One scenario's outcome.

    Attributes:
        name: `F1` and so on.
        title: What was shown.
        seed: Of all that is random in it.
        figures: What was measured.
        checks: What had to hold.
        notes: What a reader should know beside.
    """

    name: str
    title: str
    seed: int
    figures: dict[str, Any] = field(factory=dict)
    checks: list[Check] = field(factory=list)
    notes: list[str] = field(factory=list)

    def check(self, what: str, held: object, *, timing: bool = False) -> None:
        """Note something that must hold."""
        self.checks.append(Check(what, bool(held), timing))

    def missed(self, *, timing: bool = True) -> list[str]:
        """What did not hold; without `timing` only what must hold on any machine at any load."""
        return [one.what for one in self.checks if not one.held and (timing or not one.timing)]

    def row(self) -> str:
        """A row of the table."""
        figures = ", ".join(f"{name} {_shown(value)}" for name, value in self.figures.items())
        missed = self.missed()
        result = f"**MISS**: {'; '.join(missed)}" if missed else "pass"
        return f"| {self.name} | {self.title} | {figures} | {result} | {self.seed} |"

    def text(self) -> str:
        """All of it, to be read."""
        checks = "\n".join(f"  {'ok  ' if one.held else 'MISS'} {one.what}" for one in self.checks)
        figures = "\n".join(f"  {name}: {_shown(value)}" for name, value in self.figures.items())
        notes = "".join(f"\n  note: {note}" for note in self.notes)
        return f"{self.name} {self.title} (seed {self.seed})\n{figures}\n{checks}{notes}"


def table(reports: Iterable[Report]) -> str:
    """The table of all of them, in Markdown."""
    rows = [
        "| | shown | figures | result | seed |",
        "|---|---|---|---|---|",
        *(report.row() for report in reports),
    ]
    return "\n".join(rows)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in value.items()) + "}"
    return str(value)
