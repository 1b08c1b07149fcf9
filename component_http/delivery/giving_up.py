"""The end of what is pending when nothing more is POSTed."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from component_http.contract import conditions, reply
from component_http.contract.delivery import Delivery
from component_http.delivery.endings import Endings
from component_http.delivery.expiry import Expiry
from component_http.delivery.health import NoMore
from component_http.delivery.life import LEFT, Lives
from component_http.delivery.slices import by_slices


@define(eq=False)
class GivingUp:
    """
    Gives deliveries up, or leaves them in the spool for the next start.

    Args:
        deliveries: At which stage each of them is.
        endings: Ends those that are given up.
        expiry: Has no deadline for those that are left.
        clock: Lets others have a turn in between.
        once: No delivery is POSTed twice, so that none is left that was POSTed.
        when_left: Called when one was left.
    """

    _deliveries: Lives
    _endings: Endings
    _expiry: Expiry
    _clock: IReactorTime
    _once: bool
    _when_left: Callable[[], object]
    _no_more: NoMore | None = field(init=False, default=None)
    _leaves: bool = field(init=False, default=False)

    @property
    def begun(self) -> bool:
        """Whatever is pending is to be given up."""
        return self._no_more is not None

    def begin(self, no_more: NoMore, *, cut_off: bool = False, leave: bool = False) -> None:
        """
        Give up all that is pending.

        Args:
            no_more: What its senders are told, and why.
            cut_off: Attempts that are under way are cut off, too; else they may still end.
            leave: Leave messages and presences in the spool.
        """
        self._no_more, self._leaves = no_more, leave
        pending = [each for each in self._deliveries if cut_off or each.stage.name != "running"]
        if pending:
            self._clock.callLater(0, by_slices, self._clock, pending, self.end)

    def end(self, delivery: Delivery) -> None:
        """Give one up, or leave it."""
        assert self._no_more is not None
        if self._leaves and self._once and delivery.tries:
            self._cut_off(delivery)
        elif self._leaves and delivery.stanza.kind != "iq":
            self._leave(delivery)
        else:
            self._endings.end(delivery, reply.give_up(delivery.stanza, self._no_more.error, self._no_more.note))

    def end_restored(self, delivery: Delivery) -> None:
        """End one that was restored, unless it may go on."""
        if self._once and delivery.tries:
            self._cut_off(delivery)
        elif self.begun:
            self.end(delivery)

    def _cut_off(self, delivery: Delivery) -> None:
        """End one that was POSTed by a process that has ended, or ends now, and must not be POSTed again."""
        note = "the gateway stopped before the answer came, and max_attempts is 1"
        self._endings.end(delivery, reply.give_up(delivery.stanza, conditions.CONNECTION_FAILURE, note))

    def _leave(self, delivery: Delivery) -> None:
        """Do nothing more about a delivery that the spool keeps for the next start; it stays pending."""
        if self._deliveries.may(delivery, LEFT):
            self._expiry.remove(delivery)
            self._deliveries.stop(delivery, LEFT)
            self._when_left()
