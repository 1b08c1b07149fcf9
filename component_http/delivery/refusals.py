"""Refuse stanzas visibly: for the sender, the operator and the counters."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from component_http.contract.conditions import error_stanza
from component_http.contract.stanza import Stanza
from component_http.delivery.admission import REASONS, Refused
from component_http.interfaces import Observer, Outlet
from component_http.log import Logger
from component_http.throttle import LOG_INTERVAL, Throttle

REFUSAL_INTERVAL = 1.0
"""Seconds between two errors to one sender because of these; an iq is always answered."""


@define(eq=False)
class Refusals:
    """
    Tells whoever has to know that a stanza was refused.

    Args:
        outlet: Where senders are told.
        observer: Told what to count of each; `refusals_untold` where its sender was not told, and `reply_lost` where
            the outlet takes nothing.
        clock: Says how long ago somebody was told the same.
    """

    _log = Logger()

    _outlet: Outlet
    _observer: Observer
    _clock: IReactorTime
    _throttle: Throttle = field(init=False, factory=lambda: Throttle(REFUSAL_INTERVAL))
    _log_throttle: Throttle = field(init=False, factory=lambda: Throttle(LOG_INTERVAL))

    def refuse(self, stanza: Stanza, refused: Refused) -> None:
        """Count, log and tell one."""
        self._observer.count(refused.event)
        now = self._clock.seconds()
        if self._log_throttle.may_tell(refused.event, now):
            reason = ": ".join(filter(None, (REASONS[refused.event], refused.why)))
            self._log.warn("refusing stanzas: {reason}", reason=reason)
        if stanza.is_request or (stanza.bounceable and self._throttle.may_tell(stanza.conversation[0], now)):
            self._send(stanza, refused)
        else:
            self._observer.count("refusals_untold")

    def _send(self, stanza: Stanza, refused: Refused) -> None:
        try:
            sent = self._outlet.send(error_stanza(stanza, refused.error))
        except Exception:
            self._log.failure("cannot send a {kind}", kind=stanza.kind)
            sent = False
        if not sent:
            self._observer.count("reply_lost")
