"""
Build XMPP components and bots in any language by answering HTTP POSTs.

`Gateway(settings, reactor).setServiceParent(parent)` is the whole gateway; `StanzaIntake` is the part of it that
an application adds to a component connection of its own. The public names are imported when they are first
used, so that importing the package costs nothing, installs no reactor and opens no socket.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from component_http._version import __version__

if TYPE_CHECKING:
    from component_http.gateway import Gateway
    from component_http.settings import Settings
    from component_http.xmpp.intake import StanzaIntake

__all__ = ["Gateway", "Settings", "StanzaIntake", "__version__"]

_HOMES = {
    "Gateway": "component_http.gateway",
    "Settings": "component_http.settings",
    "StanzaIntake": "component_http.xmpp.intake",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
