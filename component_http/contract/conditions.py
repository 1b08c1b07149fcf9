"""HTTP status or failure -> the stanza error that its sender sees."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import field, frozen, validators
from twisted.words.xish.domish import Element

from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT

_MAX_TEXT = 200
"""Characters of an error's text that a person gets to see in a log line."""

NS_STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"

ERROR_TYPES = ("auth", "cancel", "continue", "modify", "wait")

CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        "bad-request": "modify",
        "conflict": "cancel",
        "feature-not-implemented": "cancel",
        "forbidden": "auth",
        "gone": "cancel",
        "internal-server-error": "cancel",
        "item-not-found": "cancel",
        "jid-malformed": "modify",
        "not-acceptable": "modify",
        "not-allowed": "cancel",
        "not-authorized": "auth",
        "policy-violation": "modify",
        "recipient-unavailable": "wait",
        "redirect": "modify",
        "registration-required": "auth",
        "remote-server-not-found": "cancel",
        "remote-server-timeout": "wait",
        "resource-constraint": "wait",
        "service-unavailable": "cancel",
        "subscription-required": "auth",
        "undefined-condition": "cancel",
        "unexpected-request": "modify",
    }
)
"""Every defined condition with the error type that goes with it. Source: RFC 6120 section 8.3.3."""


@frozen
class StanzaError:
    """
    A stanza error (RFC 6120 section 8.3).

    Attributes:
        type: The sender may do this about it: one of `ERROR_TYPES`.
        condition: One of `CONDITIONS`.
        text: A sentence for people, or None.

    Raises:
        ValueError: The type or the condition is unknown.
    """

    type: str = field(validator=validators.in_(ERROR_TYPES))
    condition: str = field(validator=validators.in_(CONDITIONS))
    text: str | None = None


BAD_REQUEST = StanzaError("modify", "bad-request")
CONNECTION_FAILURE = StanzaError("wait", "remote-server-timeout", "Connection failure")
NEVER_TRIED = StanzaError("wait", "remote-server-timeout", "Never tried")
TIMEOUT = StanzaError("wait", "remote-server-timeout", "Timeout")
FULL = StanzaError("wait", "resource-constraint")
STOPPING = StanzaError("wait", "service-unavailable")
TOO_LARGE = StanzaError("modify", "policy-violation")
SERVICE_UNAVAILABLE = StanzaError("cancel", "service-unavailable")
INTERNAL = StanzaError("cancel", "internal-server-error")
REPLY_NOT_SENT = StanzaError("cancel", "internal-server-error", "The answer could not be sent")

STATUS_ERRORS: Mapping[int, StanzaError] = MappingProxyType(
    {
        400: StanzaError("modify", "bad-request"),
        401: StanzaError("auth", "not-authorized"),
        402: StanzaError("auth", "forbidden", "Payment required"),
        403: StanzaError("auth", "forbidden"),
        404: StanzaError("cancel", "item-not-found"),
        405: StanzaError("cancel", "not-allowed"),
        406: StanzaError("modify", "not-acceptable"),
        408: StanzaError("wait", "remote-server-timeout"),
        409: StanzaError("cancel", "conflict"),
        410: StanzaError("cancel", "gone"),
        411: StanzaError("modify", "bad-request"),
        412: StanzaError("cancel", "conflict"),
        413: StanzaError("modify", "resource-constraint"),
        414: StanzaError("modify", "resource-constraint"),
        415: StanzaError("cancel", "feature-not-implemented"),
        416: StanzaError("modify", "bad-request"),
        421: StanzaError("wait", "remote-server-timeout"),
        422: StanzaError("modify", "bad-request"),
        423: StanzaError("wait", "resource-constraint"),
        425: StanzaError("wait", "remote-server-timeout"),
        429: StanzaError("wait", "resource-constraint"),
        431: StanzaError("modify", "resource-constraint"),
        451: StanzaError("auth", "forbidden"),
        500: StanzaError("cancel", "internal-server-error"),
        501: StanzaError("cancel", "feature-not-implemented"),
        502: StanzaError("cancel", "remote-server-timeout", "Bad gateway"),
        503: StanzaError("wait", "remote-server-timeout", "Service temporarily unavailable"),
        504: StanzaError("wait", "remote-server-timeout", "Gateway timeout"),
        507: StanzaError("wait", "resource-constraint"),
        511: StanzaError("auth", "not-authorized"),
    }
)
"""The errors of statuses outside 2xx, in ascending order; for any other it is `SERVICE_UNAVAILABLE`."""


def error_of_status(status: int, overrides: Mapping[int, StanzaError] = MappingProxyType({})) -> StanzaError:
    """Translate an HTTP status outside 2xx; the overrides of the settings are asked before `STATUS_ERRORS`."""
    return overrides.get(status) or STATUS_ERRORS.get(status, SERVICE_UNAVAILABLE)


def error_child(error: StanzaError) -> Element:
    """Make the `<error/>` element of an error stanza (RFC 6120 section 8.3.2)."""
    element = Element((NS_COMPONENT, "error"))
    element["type"] = error.type
    element.addElement((NS_STANZAS, error.condition))
    if error.text is not None:
        element.addElement((NS_STANZAS, "text"), content=error.text)
    return element


def error_stanza(stanza: Stanza, error: StanzaError) -> Element:
    """
    Make the stanza that tells the sender of `stanza` what went wrong; `Stanza.bounceable` says whether it may be sent.
    """
    element = stanza.response("error")
    element.addChild(error_child(error))
    return element


def read_error(stanza: Stanza) -> StanzaError:
    """
    Read a stanza of type error, with one short line of its text; without a known condition it is undefined-condition.
    """
    error = stanza.own("error")
    if error is None:
        return StanzaError("cancel", "undefined-condition")
    condition, text = "undefined-condition", None
    for child in error.elements():
        if child.uri == NS_STANZAS and child.name == "text":
            text = " ".join("".join(char if char.isprintable() else " " for char in str(child)).split())[:_MAX_TEXT]
        elif child.uri == NS_STANZAS and child.name in CONDITIONS:
            condition = child.name
    given = error.getAttribute("type")
    return StanzaError(given if given in ERROR_TYPES else CONDITIONS[condition], condition, text or None)
