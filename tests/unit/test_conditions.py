"""Stanza errors: what a failed delivery tells the sender."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.conditions import (
    CONDITIONS,
    CONNECTION_FAILURE,
    ERROR_TYPES,
    SERVICE_UNAVAILABLE,
    STATUS_ERRORS,
    TIMEOUT,
    StanzaError,
    error_of_status,
    error_stanza,
)
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas, serialize


class StatusTests(SynchronousTestCase):
    """The status of a response says what the sender sees."""

    def test_known_statuses(self) -> None:
        """
        Statuses that have a counterpart in XMPP are told by it.
        """
        self.assertEqual(StanzaError("cancel", "item-not-found"), error_of_status(404))
        self.assertEqual(StanzaError("auth", "forbidden", "Payment required"), error_of_status(402))
        self.assertEqual(StanzaError("wait", "resource-constraint"), error_of_status(429))

    def test_unknown_statuses(self) -> None:
        """
        Anything else outside 2xx is a service that is not available.
        """
        for status in (100, 301, 418, 505, 599, 999, 0, -1):
            self.assertEqual(SERVICE_UNAVAILABLE, error_of_status(status))

    def test_settings_come_first(self) -> None:
        """
        What the settings say of a status replaces what we say of it, and of no other.
        """
        mine = {404: StanzaError("wait", "recipient-unavailable", "Asleep")}
        self.assertEqual(mine[404], error_of_status(404, mine))
        self.assertEqual(StanzaError("cancel", "gone"), error_of_status(410, mine))

    def test_map_is_in_order(self) -> None:
        """
        The map reads like its table: ascending, no 2xx, no 3xx.
        """
        self.assertEqual(sorted(STATUS_ERRORS), list(STATUS_ERRORS))
        self.assertTrue(all(400 <= status <= 599 for status in STATUS_ERRORS))

    def test_lost_connections_are_worth_trying_again(self) -> None:
        """
        No connection and no answer in time are type wait.
        """
        self.assertEqual(("wait", "wait"), (CONNECTION_FAILURE.type, TIMEOUT.type))


class StanzaErrorTests(SynchronousTestCase):
    """An error is one that XMPP knows."""

    def test_unknown_names_are_refused(self) -> None:
        """
        A type or condition that RFC 6120 does not have cannot be made.
        """
        for error_type, condition in (("fatal", "gone"), ("cancel", "teapot"), ("", ""), ("cancel", "text")):
            with self.assertRaises(ValueError):
                StanzaError(error_type, condition)

    def test_every_condition_has_its_type(self) -> None:
        """
        Each defined condition comes with the error type that goes with it.
        """
        self.assertEqual(22, len(CONDITIONS))
        self.assertTrue(set(CONDITIONS.values()) <= set(ERROR_TYPES))


class ErrorStanzaTests(SynchronousTestCase):
    """The error goes back to whom it concerns."""

    def test_same_id_and_swapped_addresses(self) -> None:
        """
        The sender can tell which of its stanzas failed, and who says so.
        """
        [element] = parse_stanzas("<iq from='a@b/c' to='bot.localhost' type='get' id='&lt;1'/>", Limits())
        error = error_stanza(Stanza.from_element(element), StanzaError("wait", "gone", "a <b> & c"))
        self.assertEqual(
            ("error", "<1", "a@b/c", "bot.localhost"), tuple(error[name] for name in ("type", "id", "to", "from"))
        )
        [again] = parse_stanzas(serialize(error), Limits())
        self.assertEqual("a <b> & c", str(again.error.text))

    def test_without_id(self) -> None:
        """
        A message without an id gets an error without one.
        """
        [element] = parse_stanzas("<message from='a@b' to='bot.localhost'/>", Limits())
        self.assertFalse(error_stanza(Stanza.from_element(element), SERVICE_UNAVAILABLE).hasAttribute("id"))
