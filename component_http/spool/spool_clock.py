"""The clock of a spool, whose times its file has."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen


@frozen
class Moment:
    """
    One moment, by two clocks.

    Attributes:
        now: Seconds of the spool's clock.
        seconds: Seconds of the reactor's.
    """

    now: float
    seconds: float


class SpoolClock:
    """
    The clock of the times of deliveries, outbound stanzas and idempotency records.

    While a gateway runs it goes as the reactor's clock does, also when somebody sets the wall clock; over a restart it
    goes on by the wall clock. How far it is ahead of the wall clock is a fact in the file (`rows.LEAD`).

    Args:
        seconds: The reactor's clock.
        wall: The wall clock.
        written_lead: Seconds that it was ahead of the wall clock when a gateway last wrote that down.

    Attributes:
        ahead: Seconds that it is ahead of the reactor's clock.
        wall: The wall clock.
        written_lead: As above.
    """

    def __init__(self, seconds: Callable[[], float], wall: Callable[[], float], written_lead: float) -> None:
        self._seconds = seconds
        self.wall = wall
        self.written_lead = written_lead
        self.ahead = wall() + written_lead - seconds()

    def moment(self, seconds: float) -> Moment:
        """A moment of the reactor's clock, by both."""
        return Moment(seconds + self.ahead, seconds)

    def lead(self) -> float:
        """Seconds that it is ahead of the wall clock now."""
        return self._seconds() + self.ahead - self.wall()
