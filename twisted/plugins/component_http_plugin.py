"""`twistd component-http`; everything else is loaded only when it is asked for."""

from __future__ import annotations

from twisted.application.service import ServiceMaker

component_http = ServiceMaker(
    "component-http",
    "component_http.tap",
    "An XMPP component whose stanzas are answered by a webhook.",
    "component-http",
)
