"""The way in: stanzas are accepted when the spool has them, or refused visibly."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.python.failure import Failure

from component_http.contract import conditions
from component_http.contract.delivery import Delivery
from component_http.contract.request import request_body
from component_http.contract.stanza import Stanza
from component_http.delivery.admission import Admission, Refused
from component_http.delivery.life import STORING, Lives
from component_http.delivery.refusals import Refusals
from component_http.errors import SpoolError
from component_http.interfaces import DeliverySpool, Valve
from component_http.waiters import follow


@define(eq=False)
class Acceptance:
    """
    Lets stanzas in.

    Args:
        deliveries: At which stage each of them is.
        admission: Whether there is room.
        spool: Stores them.
        refusals: Tells of those that may not come in.
        valve: Where they come from; closed while much is pending, or waits to be stored.
        answers: Whether the webhook answers, so that what waits will have its turn.
        closed: Says why nothing may come in at all.
        new_delivery: Makes a delivery of a stanza and the size of its request body.
        heard: Told each stanza that is to be stored, with the id of its delivery.
        take: Takes in charge what is stored; returns whether it may go on.
        when_not_stored: Called when something could not be stored.
        failed: Told of internal errors.
    """

    _deliveries: Lives
    _admission: Admission
    _spool: DeliverySpool
    _refusals: Refusals
    _valve: Valve
    _answers: Callable[[], bool]
    _closed: Callable[[], Refused | None]
    _new_delivery: Callable[[Stanza, int], Delivery]
    _heard: Callable[[Stanza, str], object]
    _take: Callable[[Delivery], bool]
    _when_not_stored: Callable[[], object]
    _failed: Callable[[Failure, Delivery], object]
    _valve_is_closed: bool = field(init=False, default=False)

    def accept(self, stanza: Stanza) -> None:
        """See `component_http.delivery.relay.Relay.accept`."""
        conversation = stanza.conversation
        refused = self._closed()
        if refused is None and self._admission.is_tight:
            # It is asked first without the size, because a body that is refused need not be written.
            refused = self._admission.refusal(conversation, 0)
        if refused is None:
            body = request_body(stanza)
            refused = self._admission.refusal(conversation, len(body))
        if refused is None:
            self._store(stanza, body)
        else:
            self._refusals.refuse(stanza, refused)

    def read_again(self) -> None:
        """Open the valve, if it was closed and there is room again, or nobody for whom it helps to wait."""
        admission = self._admission
        if self._valve_is_closed and not admission.much_to_store and (admission.relieved or not self._answers()):
            self.open_valve()

    def open_valve(self) -> None:
        """Read again, whether there is room or not; stanzas without room are refused."""
        self._valve_is_closed = False
        self._valve.resume()

    def _close_valve(self) -> None:
        self._valve_is_closed = True
        self._valve.pause()

    def _store(self, stanza: Stanza, body: bytes) -> None:
        delivery = self._new_delivery(stanza, len(body))
        self._heard(stanza, delivery.id)
        stored = self._spool.store(delivery, body)
        if not stored.called:
            self._deliveries.begin(delivery, STORING)
            self._admission.begin(delivery)
            if self._admission.much_to_store:
                self._close_valve()
        follow(stored, self._stored, self._not_stored, self._failed, delivery)

    def _stored(self, _: None, delivery: Delivery) -> None:
        had_much = self._admission.much_to_store
        if delivery.stage is STORING:
            self._admission.stored(delivery)
        if not self._take(delivery):
            return
        # While the webhook answers, what is held back now gets in later; else it should be told that there is no room.
        if self._admission.crowded and self._answers():
            self._close_valve()
        elif had_much:
            self.read_again()

    def _not_stored(self, failure: Failure, delivery: Delivery) -> None:
        if delivery.stage is STORING:
            self._admission.not_stored(delivery)
            self._deliveries.end(delivery)
        if failure.check(SpoolError):
            refused = Refused("refused_unstored", conditions.FULL, failure.getErrorMessage())
        else:
            self._failed(failure, delivery)
            refused = Refused("refused_unstored", conditions.INTERNAL)
        self._refusals.refuse(delivery.stanza, refused)
        self._when_not_stored()
