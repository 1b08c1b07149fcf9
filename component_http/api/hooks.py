"""URLs for programs without XMPP: `POST /hooks/<secret>` takes messages for Slack, or any JSON for a template."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import field, frozen
from twisted.internet.defer import Deferred

from component_http.api.desk import Desk
from component_http.api.exchange import Answer, Call, Problem
from component_http.api.rate import Rate
from component_http.api.reading import body_of, form_of, json_of, text_of, unsupported
from component_http.api.slack import slack_text
from component_http.api.template import Template
from component_http.contract.address import Address
from component_http.contract.http import FORM, JSON, TEXT, is_json
from component_http.contract.objects import read_json
from component_http.errors import ReplyRefused
from component_http.waiters import abandon

PATIENCE = 4.0
"""
Seconds for which a poster waits until the server has the message, and a room has shown it. They include the time to
enter the room; only a room that has not answered by then is waited for longer, up to `entrances.PATIENCE`. A program
that posts gives up after five seconds or more.
"""

_JSON_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*[\[{]")


@frozen
class Hook:
    """
    One such URL.

    Attributes:
        secret: The last part of its path.
        template: Makes the text; None for messages in Slack's shape.
    """

    name: str
    secret: str = field(repr=False)
    to: Sequence[str]
    sender: Address
    type: str = "chat"
    template: Template | None = None
    rate: Rate = field(factory=lambda: Rate(100, 10.0), eq=False)


async def post(desk: Desk, call: Call, hook: Hook) -> Answer:
    """
    Carry out `POST /hooks/{secret}`: send the text to each recipient of the hook, and wait until it has arrived.

    Returns:
        200 and `ok`, as Slack answers. The text goes on if a template made no text, so that nothing is sent, or if the
        server has not confirmed the message within `PATIENCE` seconds.

    Raises:
        Problem: The message did not reach one of the recipients.
    """
    if hook.template is None:
        text = slack_text(_payload(call))
    else:
        text = hook.template.render(_payload(call, text_is_payload=True))
    said = "ok"
    if not text:
        said = "ok, but the template has nothing to say, so nothing was sent"
    elif not await _send(desk, call, hook, text):
        said = "ok, but the XMPP server has not confirmed it yet: it is kept, and sent as soon as it can be"
    return Answer(200, said.encode("ascii"), f"{TEXT}; charset=utf-8")


async def _send(desk: Desk, call: Call, hook: Hook, text: str) -> bool:
    """Send the text to all recipients at once; False if not all of it has reached the server yet."""
    end = desk.seconds() + PATIENCE

    async def send(to: str) -> bool:
        composed = desk.compose([{"to": to, "type": hook.type, "body": text}], sender=hook.sender)
        # Each recipient has its own key, so that a repeated request reaches only those who did not get the message.
        pushed = await desk.push(f"hook {hook.name} to {to}", call, composed)
        return await desk.sent(pushed, max(0.0, end - desk.seconds()))

    sending = [Deferred.fromCoroutine(send(to)) for to in dict.fromkeys(hook.to)]
    is_sent, problems = True, []
    try:
        for each in sending:
            try:
                is_sent = await each and is_sent
            except Problem as problem:
                problems.append(problem)
    finally:
        abandon(*sending)
    if not problems:
        return is_sent
    if len(sending) == 1:
        raise problems[0]
    reached = f"{len(sending) - len(problems)} of {len(sending)} recipients were reached"
    details = "; ".join(problem.detail for problem in problems)
    raise Problem(problems[0].status, f"{reached}: {details}", headers=problems[0].headers)


def _payload(call: Call, *, text_is_payload: bool = False) -> object:
    """
    Read the body: JSON, whatever its media type, or JSON in the field `payload` of a form.

    Many programs send no media type, or a wrong one, and Slack does not mind either.

    Args:
        text_is_payload: Whether a text that is not JSON is taken as a string.
    """
    body = body_of(call)
    if body and not _JSON_BEGINS.match(body):
        if call.media_type == FORM:
            return _form_payload(call)
        if call.media_type == TEXT and text_is_payload:
            return text_of(call)
        if call.media_type not in (TEXT, "") and not is_json(call.media_type):
            raise unsupported(call, JSON, FORM)
    return json_of(call)


def _form_payload(call: Call) -> object:
    payload = form_of(call).get("payload")
    if payload is None:
        raise Problem(400, "the form has no field payload, which holds the JSON")
    try:
        return read_json(payload.encode("utf-8", "replace"))
    except ReplyRefused as refused:
        raise Problem(400, f"payload: {refused}") from None
