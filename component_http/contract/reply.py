"""
Webhook response -> replies, nothing, or a refusal.

Whatever a webhook answers ends as a `Verdict`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from attrs import field, frozen
from twisted.words.xish.domish import Element

from component_http.contract.composing import answer
from component_http.contract.conditions import (
    INTERNAL,
    SERVICE_UNAVAILABLE,
    StanzaError,
    error_of_status,
    error_stanza,
)
from component_http.contract.http import XMPP_XML, is_json, is_media_type, media_type, without_mark
from component_http.contract.objects import read_json, reply_objects, says_nothing
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits
from component_http.errors import ReplyRefused

Outcome = Literal["replied", "silent", "bounced", "expired", "refused_reply"]


@frozen
class Response:
    """
    The webhook's response to one POST.

    Attributes:
        status: The HTTP status code.
        headers: Field values by lower-case name; repeated fields are joined with ", " (RFC 9110 section 5.3).
        body: The body's bytes, or None when it was larger than the client reads.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes | None = b""


@frozen
class Verdict:
    """
    The consequence of one response, or of none.

    Attributes:
        outcome: How the delivery ends. `replied`: the webhook's own stanzas are sent. `silent`: nothing is to be sent.
            `bounced`: it failed, or left an iq without an answer. `expired`: its deadline came first. `refused_reply`:
            the answer cannot be used.
        stanzas: All that is to be sent, complete and in order; the error of a bounced, expired or refused delivery is
            among them where its sender may have one.
        note: What a person should know (what was ignored, why it was refused, that the URL is wrong), or None.
            Nothing of a body or an address is in it.
        ignored_body: The response had a body that was not read as a reply, or not all of it, by its status, its media
            type or its properties: the mistakes that people make.
        verbatim: Which of the stanzas the webhook wrote as XML, counted from 0.
        xml: The first of the stanzas as they are written; what is behind these is still to be checked and written.
    """

    outcome: Outcome
    stanzas: tuple[Element, ...] = ()
    note: str | None = None
    ignored_body: bool = False
    verbatim: frozenset[int] = frozenset()
    xml: tuple[bytes, ...] = ()


def judge(
    stanza: Stanza,
    response: Response,
    *,
    domain: str,
    limits: Limits,
    new_id: Callable[[], str],
    status_errors: Mapping[int, StanzaError] = MappingProxyType({}),
) -> Verdict:
    """
    Decide what becomes of a stanza by the webhook's response to it. Never raises.

    Args:
        stanza: What was POSTed; its recipient is in `domain`.
        response: What came back, whatever it is.
        domain: The component's own domain; no reply comes from anywhere else.
        limits: What each outgoing stanza keeps to.
        new_id: Makes the id of a stanza that needs a fresh one.
        status_errors: What the settings say about a status, before `conditions.STATUS_ERRORS`.
    """
    if not 200 <= response.status <= 299:
        note = f"the webhook answered with status {response.status}"
        if 300 <= response.status <= 399:
            note += ": the URL is wrong, for a redirect is never followed"
        return give_up(stanza, error_of_status(response.status, status_errors), note)
    try:
        replies, note_or_none = _replies(response)
        composed = answer(stanza, replies or [], domain=domain, limits=limits, new_id=new_id)
    except ReplyRefused as refused:
        return Verdict("refused_reply", (error_stanza(stanza, INTERNAL),) if stanza.is_request else (), str(refused))
    stanzas, verbatim, xml = composed.stanzas, composed.verbatim, composed.xml
    if composed.note is not None:
        remedy = "" if stanzas or stanza.is_request else "; to send nothing, answer {} or 204"
        note_or_none = composed.note + remedy
    ignored = note_or_none is not None
    if not stanza.is_request or composed.answers:
        return Verdict("replied" if stanzas else "silent", stanzas, note_or_none, ignored, verbatim, xml)
    if replies is not None and not stanzas:
        return Verdict("replied", (stanza.response("result"),), note_or_none, ignored)
    return Verdict(
        "bounced",
        (*stanzas, error_stanza(stanza, SERVICE_UNAVAILABLE)),
        note_or_none or "the webhook's response holds no answer to the iq",
        ignored,
        verbatim,
        xml,
    )


def is_open(stanza: Stanza, response: Response) -> bool:
    """The webhook has taken a question on and will answer it later: status 202 (RFC 9110 section 15.3.3)."""
    return stanza.is_request and response.status == 202


def give_up(stanza: Stanza, error: StanzaError, note: str) -> Verdict:
    """
    End a delivery that failed: no usable response came, or the gateway did not wait for one.

    Args:
        stanza: What was to be delivered.
        error: What its sender is told, if it may be told.
        note: What happened, for the log.
    """
    return Verdict("bounced", (error_stanza(stanza, error),) if stanza.bounceable else (), note)


def _replies(response: Response) -> tuple[list[dict[str, object]] | None, str | None]:
    """
    Read the reply objects of a 2xx response.

    Returns:
        Those of a JSON body, or one with the XML of an XML body; [] where it says that there is none, or None where
        there is nothing to read as a reply. And a note on what was ignored, or None.
    """
    status = response.status
    if status == 204:
        return [], None
    body = response.body
    if body is not None:
        body = without_mark(body).strip()
        if not body:
            return None, None
    said = media_type(response.headers.get("content-type", ""))
    written_in_json = is_json(said)
    is_xml = said == XMPP_XML
    if status == 200 and (written_in_json or is_xml):
        if body is None:
            raise ReplyRefused("the response is larger than max_body_bytes")
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
            raise ReplyRefused("the response is compressed, which was not asked for")
        return reply_objects(read_json(body)) if written_in_json else [{"stanza": _xml_text(body)}], None
    if not (_means_a_reply(status, body) if written_in_json and body is not None else is_xml or status != 202):
        return None, None
    size = "a large body" if body is None else f"{len(body)} bytes"
    unnamed = "of a media type that is none" if said else "without a media type"
    known = f"of {said}" if is_media_type(said) else unnamed
    here, there = ("", "") if status == 200 else (f" with status {status}", " with status 200")
    return None, f"ignored {size} {known}{here}: only application/json{there} is read as a reply"


def _means_a_reply(status: int, body: bytes) -> bool:
    """
    Say whether the JSON of a status other than 200 is a reply, so that its author should know that it is ignored.

    With 202 come words such as {"status": "accepted"}, which are for nobody.
    """
    try:
        objects = reply_objects(read_json(body))
    except ReplyRefused:
        return status != 202
    if status == 202:
        return any(given.get(name) is not None for given in objects for name in ("body", "stanza"))
    return not all(map(says_nothing, objects))


def _xml_text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise ReplyRefused("the XML is not UTF-8") from None
