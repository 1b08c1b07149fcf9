"""
One class for each decision a caller can make about a failure.

They carry values; whoever logs or prints them formats the sentence.
"""

from __future__ import annotations

__all__ = [
    "AnswerRefused",
    "Bounced",
    "CertificateInvalid",
    "CertificateRefused",
    "ComponentHttpError",
    "ConnectionCut",
    "ConnectionFailed",
    "DeliveryEnded",
    "DiskFull",
    "ErrorArrived",
    "ForeignSender",
    "MalformedStanza",
    "NotSent",
    "Offline",
    "ReplyRefused",
    "RoomRefused",
    "SettingsError",
    "SpoolError",
    "SpoolUnusable",
    "TimedOut",
    "Unanswered",
    "WebhookError",
    "XmlRefused",
]


class ComponentHttpError(Exception):
    """The base class of all errors that this package raises on purpose."""


class SettingsError(ComponentHttpError):
    """
    The settings cannot be used; running the same settings again cannot help.

    Args:
        sentences: One for each thing that is wrong, for the person who wrote the settings: the file, the key, what was
            found, what is allowed and, where there is one, the nearest correct name.

    Attributes:
        sentences: The same; `str()` of the error has all of them on one line.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__(*sentences)
        self.sentences = sentences

    def __str__(self) -> str:
        return "; also ".join(self.sentences)


class SpoolUnusable(SettingsError):
    """This version cannot use the spool's file; setting the file aside helps."""


class SpoolError(ComponentHttpError):
    """The spool cannot do what it was asked to now: the disk is full or fails. What it has is still there."""


class DiskFull(SpoolError):
    """There is no room for it on the spool's disk now. It passes when somebody makes room."""


class MalformedStanza(ComponentHttpError):
    """A stanza from the stream lacks what every stanza needs, or an address in it is none."""


class XmlRefused(ComponentHttpError):
    """XML that somebody handed us is not well-formed, or holds what we never accept or send."""


class AnswerRefused(XmlRefused):
    """An iq stays without an answer: not even the smallest error may be sent."""


class ReplyRefused(ComponentHttpError):
    """Some XML cannot be sent; the message says why, without repeating any of it."""


class ForeignSender(ReplyRefused):
    """Somebody wants us to send from an address outside the component's domain."""


class DeliveryEnded(ComponentHttpError):
    """A late reply is too late: the iq that it answers has its answer already."""


class NotSent(ComponentHttpError):
    """A stanza that was pushed and kept did not arrive. The message says why, or that it may still arrive."""


class ErrorArrived(ComponentHttpError):
    """
    An error came back for a stanza that we sent.

    Attributes:
        condition: The condition of the error (RFC 6120 section 8.3.3).
        error_type: The type of the error: `wait` if the same may work later.
        text: The text of the error, in one line and not long; "" if it has none.
    """

    def __init__(self, condition: str, error_type: str = "cancel", text: str = "") -> None:
        super().__init__(f"{condition} ({text})" if text else condition)
        self.condition = condition
        self.error_type = error_type
        self.text = text


class Bounced(ErrorArrived, NotSent):
    """A stanza that was pushed came back as an error, so it did not arrive."""


class RoomRefused(ErrorArrived):
    """
    A chat room does not let one of our addresses in, so nothing can be said there.

    Attributes:
        room: The bare address of the room.
        ours: The address that was to enter.
        condition: As in `ErrorArrived`; item-not-found for a room that did not exist and is not to be made.
    """

    def __init__(self, room: str, ours: str, condition: str, error_type: str = "cancel", text: str = "") -> None:
        super().__init__(condition, error_type, text)
        self.room = room
        self.ours = ours


class Unanswered(ComponentHttpError):
    """An iq that we sent got no answer in its time."""


class Offline(ComponentHttpError):
    """An iq cannot be sent now, because the stream is away, or too many wait for an answer."""


class WebhookError(ComponentHttpError):
    """An attempt ended without a complete HTTP response."""


class ConnectionFailed(WebhookError):
    """No connection came about: DNS, refused, unreachable, or the connect or TLS handshake timed out."""


class CertificateInvalid(WebhookError):
    """The certificate of the other side is not valid, or not for its name; only a person can mend that."""


class CertificateRefused(ConnectionFailed):
    """The other side does not accept our certificate, or that there is none; it has read nothing that was sent."""


class TimedOut(WebhookError):
    """The attempt used up its time, counted from connecting to the last byte of the body."""


class ConnectionCut(WebhookError):
    """
    The connection ended, or stopped being HTTP, before the response was complete.

    Attributes:
        reused: The connection had carried a request before.
        started: At least one byte of the response had arrived.
    """

    def __init__(self, reason: str, *, reused: bool = False, started: bool = False) -> None:
        super().__init__(reason)
        self.reused = reused
        self.started = started
