"""
Explains in the log what is wrong with the stream, and what to do about it.

Source: RFC 6120 section 4.9 (stream errors).
"""

from __future__ import annotations

from attrs import field, frozen
from twisted.logger import LogLevel
from twisted.words.protocols.jabber.error import StreamError

from component_http.contract.outbound import Refused
from component_http.contract.xml import NS_COMPONENT
from component_http.log import Logger

MAX_COMPLAINTS = 100
"""Different things that can be wrong at once before they are told again; rubbish from a server differs each time."""

UNTRUSTED = "the server's certificate cannot be trusted"
"""Said when we refuse the certificate of a `tls:` endpoint."""

WRONG_PORT = "component.server does not name a component port"
"""Said when a server does not serve components on that port."""

SERVED = {"jabber:client": "clients", "jabber:server": "other servers"}
"""Peers other than components, by the default namespace of the server's stream header (RFC 6120 section 4.8.2)."""

_USUAL_PORTS = {"5222": "clients", "5223": "clients", "5269": "other servers", "5270": "other servers"}
"""The same by the port (RFC 6120 section 14.7, XEP-0368)."""

_REMEDIES = {
    WRONG_PORT: (
        "name the port for components, which is 5347 unless the server's configuration says otherwise: component_ports"
        " in Prosody, the port of the ejabberd_service listener in ejabberd"
    ),
    UNTRUSTED: "",  # the details have it
    "not-authorized": (
        'the secret is not the server\'s: compare it with component_secret of Component "{domain}" in Prosody, or with'
        " the password of {domain} under ejabberd_service in ejabberd, which says the same when {domain} is not among"
        " the hosts there"
    ),
    "host-unknown": (
        'the server has no component {domain}: add Component "{domain}" to Prosody\'s configuration,'
        " or {domain} to the hosts of an ejabberd_service listener"
    ),
    "conflict": (
        "the server has a session for {domain} already: stop the other process that serves it; if there is none the"
        ' server still holds a dead one, and Prosody lets go of it with component_conflict_resolve = "kick_old"'
    ),
}
"""A remedy for each trouble, by our words for it, or by the condition of a stream error (RFC 6120 section 4.9.3)."""

BY_A_STANZA = frozenset(
    {
        "bad-format",
        "bad-namespace-prefix",
        "improper-addressing",
        "invalid-from",
        "invalid-namespace",
        "invalid-xml",
        "not-well-formed",
        "policy-violation",
        "restricted-xml",
        "unsupported-encoding",
        "unsupported-stanza-type",
    }
)
"""Conditions by which a server says that it closes the stream because of what we wrote (RFC 6120 section 4.9.3)."""

_FOR_SIZE = frozenset({"not-well-formed", "policy-violation"})
"""The conditions for a stanza that is too large: Prosody says the first, ejabberd the second."""

_BY_NO_STANZA = frozenset(
    {
        "conflict",
        "connection-timeout",
        "host-gone",
        "host-unknown",
        "not-authorized",
        "remote-connection-failed",
        "reset",
        "see-other-host",
        "system-shutdown",
        "unsupported-version",
    }
)
"""Conditions for another reason. The remaining ones, and none at all, may mean either."""

_IF_TOO_LARGE = (
    "if it is too large, raise the server's limit (component_stanza_size_limit in Prosody's global section,"
    " max_stanza_size of the ejabberd_service listener in ejabberd), or lower component.max_stanza_bytes to it"
)
_IF_NOT_ALLOWED = "whoever made it has to write it in another way"
"""Remedies for a stanza that the server refuses."""


def refusal(complaint: str | None, error: StreamError | None) -> Refused | None:
    """
    Why a server ended a stream, if that may have been because of what was written.

    The complaint is the condition of its stream error, or another reason; None if the stream just ended.
    """
    if complaint is None:
        return Refused("the connection ended each time it was written", _IF_TOO_LARGE, for_size=True)
    if error is None or complaint in _BY_NO_STANZA:
        return None
    text = " ".join((error.text or "").split())[:200]
    reason = f"{complaint} ({text})" if text else complaint
    if complaint in BY_A_STANZA - _FOR_SIZE:
        return Refused(reason, _IF_NOT_ALLOWED)
    return Refused(reason, _IF_TOO_LARGE, for_size=True)


@frozen
class Troubles:
    """
    Logs each trouble with the stream once, until it is mended.

    Args:
        address: The host and the port of the server, or the path of its socket.
    """

    _log = Logger()

    _domain: str
    _address: str
    _told: set[str] = field(init=False, factory=set)

    def unreachable(self, error: Exception) -> str:
        """The complaint about a connection that did not come about."""
        reason = str(error).rstrip(".")
        return f"cannot connect to {self._address}: {reason}; start the server, or correct component.server"

    def lost(self, complaint: str, header_namespace: str | None) -> str:
        """The complaint about a connection that ended, which may be due to its port."""
        if header_namespace == NS_COMPONENT:
            return complaint
        served = SERVED.get(header_namespace or "") or _USUAL_PORTS.get(self._address.rpartition(":")[2])
        if served is not None:
            return f"{WRONG_PORT} ({self._address} is for {served}: {complaint})"
        if _named(complaint) in _REMEDIES:
            return complaint
        return f"{complaint}; check that component.server names the server's port for components"

    def tell(self, complaint: str) -> None:
        """Log a complaint, which may have details in brackets, with its remedy."""
        known = _named(complaint) in _REMEDIES
        remedy = _REMEDIES.get(_named(complaint), "").format(domain=self._domain)
        if remedy:
            complaint = f"{complaint}: {remedy}"
        if len(self._told) > MAX_COMPLAINTS:
            self._told.clear()
        if complaint not in self._told:
            self._told.add(complaint)
            level = LogLevel.error if known else LogLevel.warn
            self._log.emit(level, "{domain}: {complaint} (still trying)", domain=self._domain, complaint=complaint)

    def mended(self) -> None:
        """Tell everything again when it happens again."""
        self._told.clear()


def _named(complaint: str) -> str:
    """The trouble that a complaint is about, without the details."""
    return complaint.partition(" (")[0]
