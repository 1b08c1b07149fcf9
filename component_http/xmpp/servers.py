"""The XMPP servers that we know: how to tell them apart, and which line of their settings to change."""

from __future__ import annotations

import re
from typing import Literal

from attrs import frozen

Known = Literal["Prosody", "ejabberd"]

_PROSODYS_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PROSODYS_WORDS = "does not match any configured external components"
_EJABBERDS_ID = re.compile("[0-9]{10,20}")


def known_server(stream_id: str, error_text: str = "") -> Known | None:
    """
    Guess which server has opened a stream: before the handshake it says so in no other way.

    Args:
        stream_id: The id of its stream header.
        error_text: The text of its stream error; Prosody gives no id with the one for an unknown component.
    """
    if _PROSODYS_ID.fullmatch(stream_id) or _PROSODYS_WORDS in error_text:
        return "Prosody"
    return "ejabberd" if _EJABBERDS_ID.fullmatch(stream_id) else None


def named_server(name: str) -> Known | None:
    """Return the server that calls itself so (XEP-0092), if it is one that we know."""
    return next((known for known in ("Prosody", "ejabberd") if name.lower().startswith(known.lower())), None)


@frozen
class Remedy:
    """What to do about a trouble: in the words of each server that we know, and for any other."""

    any: str
    prosody: str
    ejabberd: str

    def of(self, server: Known | None) -> str:
        return self.any if server is None else self.prosody if server == "Prosody" else self.ejabberd


PORT = Remedy(
    "name the port for components, which is 5347 unless the server's configuration says otherwise: component_ports in"
    " Prosody, the port of the ejabberd_service listener in ejabberd",
    "name the port for components: that in component_ports in prosody.cfg.lua, or 5347 if that is not there",
    "name the port of the listener with module: ejabberd_service in ejabberd.yml; if there is none, add one",
)

SECRET = Remedy(
    'the secret is not the server\'s: compare it with component_secret of Component "{domain}" in Prosody, or with the'
    " password of {domain} under ejabberd_service in ejabberd, which says the same when {domain} is not among the hosts"
    " there",
    'the secret is not the server\'s: in prosody.cfg.lua, the line component_secret = "..." below'
    ' Component "{domain}" must have the one of component.secret_file; restart Prosody after a change',
    "the secret is not the server's, or {domain} is not among its hosts: in ejabberd.yml, the listener with module:"
    ' ejabberd_service needs {domain}: below hosts:, and below that password: "..." with the one of'
    " component.secret_file; ejabberdctl reload_config reads it again",
)

UNKNOWN_DOMAIN = Remedy(
    'the server has no component {domain}: add Component "{domain}" to Prosody\'s configuration, or {domain} to the'
    " hosts of an ejabberd_service listener",
    'the server has no component {domain}: add Component "{domain}" at the end of prosody.cfg.lua, below it'
    ' component_secret = "..." with the one of component.secret_file, and restart Prosody',
    "the server has no component {domain}: in ejabberd.yml, add {domain}: below hosts: of the listener with module:"
    ' ejabberd_service, and below that password: "..." with the one of component.secret_file',
)

TAKEN = Remedy(
    "the server has a session for {domain} already: stop the other process that serves it; if there is none the server"
    ' still holds a dead one, and Prosody lets go of it with component_conflict_resolve = "kick_old"',
    "the server has a session for {domain} already: stop the other process that serves it; if there is none Prosody"
    ' still holds a dead one: component_conflict_resolve = "kick_old" below Component "{domain}" in prosody.cfg.lua has'
    " it let go",
    "the server has a session for {domain} already: stop the other process that serves it",
)

NO_REASON = Remedy(
    "the server's log may say why",
    "Prosody's log may say why",
    "in ejabberd.yml, a domain_balancing for {domain} needs component_number: 1 beside its type, or lets no component"
    " in; remove it if one process serves {domain}",
)

STANZA_LIMIT = Remedy(
    "raise the server's limit (component_stanza_size_limit in Prosody's global section, max_stanza_size of the"
    " ejabberd_service listener in ejabberd), or lower component.max_stanza_bytes",
    "put component_stanza_size_limit = {size} into the global section of prosody.cfg.lua, above the first VirtualHost,"
    " or lower component.max_stanza_bytes",
    "put max_stanza_size: {size} into the listener with module: ejabberd_service in ejabberd.yml, or lower"
    " component.max_stanza_bytes",
)

NOT_BACK = Remedy(
    "another process may have a stream for {domain} too, and get a part of its stanzas: stop it",
    "another process may have a stream for {domain} too, and get a part of its stanzas: stop it",
    "ejabberd gives each stream for {domain} a part of its stanzas, and lets a part be lost if domain_balancing has a"
    " component_number greater than the number of streams: stop other processes that serve {domain}, or correct that"
    " number in ejabberd.yml; and if the listener has several hosts, put global_routes: false into it",
)
