"""
Stand-ins for the seams of `component_http.interfaces` and for the XMPP server, for tests of this package and of
applications that embed it. A method without a description is that of the interface.
"""

from component_http.testing.outlet import RecordingOutlet, RecordingValve
from component_http.testing.sender import RecordingSender
from component_http.testing.server import ComponentServer
from component_http.testing.spool import KeepingSpool
from component_http.testing.webhook import Answer, ScriptedWebhook, json_response

__all__ = [
    "Answer",
    "ComponentServer",
    "KeepingSpool",
    "RecordingOutlet",
    "RecordingSender",
    "RecordingValve",
    "ScriptedWebhook",
    "json_response",
]
