"""
Bring wokkel 18.0.0, its last release, to current Twisted.

Import this before anything of wokkel. It puts back two names that Twisted no longer has and wokkel's modules
import, and bounds a table of Twisted's that would otherwise keep every address ever seen.

Importing it installs no reactor.
"""

from __future__ import annotations

import sys

import constantly
from twisted.python import compat
from twisted.words.protocols.jabber import jid

__all__ = ["MAX_INTERNED_JIDS"]

MAX_INTERNED_JIDS = 1000
"""Addresses that `internJID` keeps; wokkel's handlers intern whatever a stranger writes in a stanza."""


class _BoundedDict(dict[str, jid.JID]):
    """A dictionary that starts afresh when it is full: cheap, and a table of pure values loses nothing by it."""

    def __setitem__(self, key: str, value: jid.JID) -> None:
        if len(self) >= MAX_INTERNED_JIDS:
            self.clear()
        super().__setitem__(key, value)


if not hasattr(compat, "_PY3"):
    compat._PY3 = True  # type: ignore[attr-defined]

# wokkel.data_form, wokkel.muc and wokkel.pubsub import twisted.python.constants, which became a package of its own.
sys.modules.setdefault("twisted.python.constants", constantly)

if type(getattr(jid, "__internJIDs", None)) is dict:
    setattr(jid, "__internJIDs", _BoundedDict())
