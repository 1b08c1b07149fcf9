"""
Bring wokkel 18.0.0, its last release, to current Twisted.

Import this before anything of wokkel. It puts back two names that wokkel's modules import and Twisted no longer has.
It limits a table of Twisted's that would otherwise keep every address ever seen, and the time that one address takes.

Importing it installs no reactor.
"""

from __future__ import annotations

import sys

import constantly
from twisted.python import compat
from twisted.words.protocols.jabber import jid

from component_http.contract.address import exceeds_limit

MAX_INTERNED_JIDS = 1000
"""Addresses that `internJID` keeps; wokkel's handlers intern every address in a stranger's stanza."""


class _BoundedDict(dict[str, jid.JID]):
    """A dictionary that is emptied when it is full, which is cheap and does not harm a cache."""

    def __setitem__(self, key: str, value: jid.JID) -> None:
        if len(self) >= MAX_INTERNED_JIDS:
            self.clear()
        super().__setitem__(key, value)


def _prep(user: str | None, host: str, resource: str | None) -> tuple[str | None, str, str | None]:
    """
    Refuse a part of an address that is too long (RFC 7622 sections 3.2 to 3.4), which Twisted does not.

    Twisted prepares text character by character: a resource of 250 kB would take it seconds.
    """
    if any(part and exceeds_limit(part) for part in (user, host, resource)):
        raise jid.InvalidFormat("A part of the address is too long")
    return _twisteds_prep(user, host, resource)


_twisteds_prep = jid.prep
jid.prep = _prep

if not hasattr(compat, "_PY3"):
    compat._PY3 = True  # type: ignore[attr-defined]

# wokkel.data_form, wokkel.muc and wokkel.pubsub import twisted.python.constants, which became a package of its own.
sys.modules.setdefault("twisted.python.constants", constantly)

if type(getattr(jid, "__internJIDs", None)) is dict:
    setattr(jid, "__internJIDs", _BoundedDict())
