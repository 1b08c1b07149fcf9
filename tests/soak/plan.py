"""How a scenario is to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import frozen

from tests.soak.rig import Rig

__all__ = ["Plan", "Sections", "users"]

T = TypeVar("T")
Sections = dict[str, dict[str, object]]


@frozen
class Plan:
    """
    How a scenario is to run.

    Attributes:
        short: For some seconds instead of in full.
        seed: Of what is random in it.
        overrides: Settings of the gateway that win over the scenario's own.
    """

    short: bool = False
    seed: int = 1
    overrides: Mapping[str, Mapping[str, object]] = {}

    def pick(self, full: T, short: T) -> T:
        """One of two, by the form."""
        return short if self.short else full

    def rig(self, sections: Sections | None = None, **arguments: Any) -> Rig:
        """The three processes, started."""
        return Rig(seed=self.seed, sections=sections, overrides=self.overrides, **arguments)


def users(rate: float, senders: int, **properties: Any) -> dict[str, Any]:
    """A group of ordinary senders."""
    return {"name": "users", "rate": rate, "senders": senders, **properties}
