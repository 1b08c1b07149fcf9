"""Stanzas that are to leave, made of replies, errors and pushes, as far as the server would take them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import zip_longest

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.words.xish.domish import Element

from component_http.contract.outbound import OutboundStanza, outbound_stanza
from component_http.contract.outgoing import fitted, is_ours
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits
from component_http.errors import AnswerRefused, XmlRefused
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.throttle import Folded


@define(eq=False)
class StanzaMaker:
    """
    Makes outbound stanzas.

    Args:
        observer: Told `unsendable` and `unanswered` for what cannot be sent.
        clock: Says when they are made.
        domain: The component's own domain, normalised.
        limits: For one stanza.
        lifetimes: Seconds until a stanza expires, by its kind.
    """

    _log = Logger()

    _observer: Observer
    _clock: IReactorTime
    _domain: str
    _limits: Limits
    _lifetimes: Mapping[str, float]
    _lines: Folded = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._lines = Folded(self._clock.seconds)

    def make(
        self,
        elements: Sequence[Element],
        xml: Iterable[bytes] = (),
        *,
        verbatim: Collection[int] = (),
        delivery_id: str | None = None,
        deadline: float | None = None,
        asked: Stanza | None = None,
    ) -> list[OutboundStanza]:
        """
        Make outbound stanzas of elements.

        Args:
            elements: The stanzas.
            xml: The first of them as they are written, where they were checked already.
            verbatim: The positions of those that somebody else wrote as XML, counted from 0.
            delivery_id: The delivery that they answer; None if they answer none.
            deadline: The time until which somebody waits for the answer to an iq; None where nobody waits.
            asked: The stanza of that delivery, whose sender is told if the server refuses one of these; None where
                nobody may be told.

        Returns:
            Those that may be sent, errors and answers to iqs made smaller where they have to be; the others are counted
            and logged.
        """
        now = self._clock.seconds()
        made = []
        for position, (element, written) in enumerate(zip_longest(elements, xml)):
            try:
                if written is None:
                    element, written = fitted(element, self._domain, self._limits.max_bytes)
            except XmlRefused as error:
                self._drop("unanswered" if isinstance(error, AnswerRefused) else "unsendable", str(error))
                continue
            made.append(
                outbound_stanza(
                    element,
                    written,
                    now,
                    self._lifetimes,
                    deadline=deadline,
                    verbatim=position in verbatim,
                    delivery_id=delivery_id,
                    asked=asked,
                )
            )
        return made

    def still_fits(self, outbound: OutboundStanza) -> bool:
        """Tell whether a stanza made under other settings may be sent under these; count and log it if not."""
        if len(outbound.xml) <= self._limits.max_bytes and is_ours(outbound.head.sender, self._domain):
            return True
        self._drop("unsendable", "it does not fit the settings any more")
        return False

    def _drop(self, event: str, reason: str) -> None:
        self._observer.count(event)
        dropped = "dropped a stanza that the server would not take: {reason}"
        self._lines.write("unsendable", self._log.warn, dropped, reason=reason)
