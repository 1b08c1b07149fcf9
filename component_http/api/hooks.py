"""
URLs for programs that know nothing of XMPP: `POST /hooks/<secret>`, as Slack's incoming webhooks take it, or with a
template for anything else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence

from attrs import field, frozen
from twisted.internet.defer import Deferred

from component_http.api.desk import Desk
from component_http.api.exchange import FORM, JSON, TEXT, Answer, Call, Problem
from component_http.api.rate import Rate
from component_http.api.reading import form_of, is_json, json_of, unsupported
from component_http.api.template import Template, TemplateFailed
from component_http.contract.address import Address
from component_http.contract.reply import JsonNumber, read_json
from component_http.errors import ReplyRefused

__all__ = ["PATIENCE", "Hook", "Hooks", "post", "slack_text"]

PATIENCE = 4.0
"""
Seconds for which a poster waits until the server has the message, and a room has shown it. A program that posts gives
up after five seconds or more, and entering a room may take some of them.
"""

_LINK = re.compile(r"<([^<>|]+)(?:\|([^<>]*))?>")
_CHARACTERS = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}
_REFERENCE = re.compile("|".join(_CHARACTERS))
_ADDRESSEE = re.compile(r"[!@#]")


@frozen
class Hook:
    """
    One such URL.

    Attributes:
        name: What the log calls it.
        secret: The last part of its path.
        to: Who gets the messages.
        sender: Where they come from.
        type: Their type.
        template: Makes their text; None for Slack's shape.
        rate: How often.
    """

    name: str
    secret: str = field(repr=False)
    to: Sequence[str]
    sender: Address
    type: str = "chat"
    template: Template | None = None
    rate: Rate = field(factory=lambda: Rate(100, 10.0), eq=False)


class Hooks:
    """
    All that there are.

    Args:
        hooks: They.
    """

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._hooks = [(_digest(hook.secret), hook) for hook in hooks]

    def find(self, secret: str) -> Hook:
        """
        The one with this secret.

        Raises:
            Problem: There is none.
        """
        digest = _digest(secret)
        found = None
        for known, hook in self._hooks:
            if hmac.compare_digest(known, digest):
                found = hook
        if found is None:
            raise Problem(404, "there is no hook with this secret")
        return found


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


async def post(desk: Desk, call: Call, hook: Hook) -> Answer:
    """
    `POST /hooks/{secret}`: send the text to each of those whom the settings name, and wait for what becomes of it.

    Returns:
        200 and `ok`, which is what Slack says and what nobody else minds. Where a template has nothing to say, nothing
        is sent; and after `PATIENCE` seconds the server may not have it. Both are said.

    Raises:
        Problem: It did not reach one of them.
    """
    text = slack_text(_payload(call)) if hook.template is None else _rendered(hook.template, call)
    said = "ok"
    if not text:
        said = "ok, but the template has nothing to say, so nothing was sent"
    elif not await _send(desk, call, hook, text):
        said = "ok, but the XMPP server has not confirmed it yet: it is kept, and sent as soon as it can be"
    return Answer(200, said.encode("ascii"), f"{TEXT}; charset=utf-8")


async def _send(desk: Desk, call: Call, hook: Hook, text: str) -> bool:
    """Send the text to all at once; False where not all of it has reached the server yet."""

    async def send(to: str) -> bool:
        composed = desk.compose([{"to": to, "type": hook.type, "body": text}], sender=hook.sender)
        # A key of its own for each: a request that is made again reaches only those whom it has not reached.
        pushed = await desk.push(f"hook {hook.name} to {to}", call, composed)
        return await desk.sent(pushed, PATIENCE)

    sending = [Deferred.fromCoroutine(send(to)) for to in dict.fromkeys(hook.to)]
    is_sent, problems = True, []
    try:
        for each in sending:
            try:
                is_sent = await each and is_sent
            except Problem as problem:
                problems.append(problem)
    finally:
        for each in sending:
            each.addErrback(lambda _: None)
            each.cancel()
    if not problems:
        return is_sent
    if len(sending) == 1:
        raise problems[0]
    reached = f"{len(sending) - len(problems)} of {len(sending)} recipients were reached"
    details = "; ".join(problem.detail for problem in problems)
    raise Problem(problems[0].status, f"{reached}: {details}", headers=problems[0].headers)


def _payload(call: Call) -> object:
    """What Slack takes: JSON, or JSON in the field `payload` of a form."""
    if call.media_type == FORM:
        payload = form_of(call).get("payload")
        if payload is None:
            raise Problem(400, "the form has no field payload, which holds the JSON")
        try:
            return read_json(payload.encode("utf-8", "replace"))
        except ReplyRefused as refused:
            raise Problem(400, f"payload: {refused}") from None
    if not is_json(call.media_type) and call.media_type != TEXT:
        raise unsupported(call, JSON, FORM)
    return json_of(call)


def _rendered(template: Template, call: Call) -> str:
    try:
        return template.render(_payload(call))
    except TemplateFailed as failed:
        raise Problem(422, str(failed)) from None


def slack_text(payload: object) -> str:
    """
    Make a message's text of what Slack's incoming webhooks take.

    Of `attachments` and `blocks` their texts are taken; how they look is lost. A `username` stands before the text.

    Raises:
        Problem: There is no text in it.

    Source: Slack's documentation of incoming webhooks and of formatting text.
    """
    if not isinstance(payload, dict):
        raise Problem(400, "the JSON is not an object")
    text, username = payload.get("text"), payload.get("username")
    if not isinstance(text, str | None):
        raise Problem(422, "text: not a string")
    pieces = [text] if text else []
    for attachment in _objects(payload.get("attachments")):
        pieces.extend(_attachment(attachment))
    if not text:
        pieces.extend(_block_texts(payload.get("blocks")))
    plain = "\n".join(map(_unmarked, pieces)).strip()
    if not plain:
        raise Problem(422, "text: it is missing")
    return f"{_unmarked(username)}: {plain}" if isinstance(username, str) and username else plain


def _attachment(attachment: dict[str, object]) -> list[str]:
    found = [attachment.get(name) for name in ("pretext", "title", "title_link", "text")]
    for part in _objects(attachment.get("fields")):
        found.append(": ".join(word for name in ("title", "value") if (word := _word(part.get(name)))))
    pieces = [piece for piece in found if isinstance(piece, str) and piece]
    fallback = attachment.get("fallback")
    return pieces or ([fallback] if isinstance(fallback, str) else _block_texts(attachment.get("blocks")))


def _word(value: object) -> str:
    if isinstance(value, JsonNumber):
        return value.text
    return value if isinstance(value, str) else ""


def _block_texts(blocks: object) -> list[str]:
    texts = []
    for block in _objects(blocks):
        for part in (block.get("text"), *_objects(block.get("fields"))):
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                texts.append(text)
    return texts


def _objects(value: object) -> list[dict[str, object]]:
    return [member for member in value if isinstance(member, dict)] if isinstance(value, list) else []


def _unmarked(text: str) -> str:
    """Slack's marks for links and names as a person would write them, and its three references as characters."""

    def written(match: re.Match[str]) -> str:
        target, label = match[1], match[2]
        if _ADDRESSEE.match(target):
            mark = "@" if target[0] == "!" else target[0]
            return f"{mark}{(label or target[1:]).lstrip(mark)}"
        target = target.removeprefix("mailto:")
        return f"{label} ({target})" if label and label != target else target

    return _REFERENCE.sub(lambda match: _CHARACTERS[match[0]], _LINK.sub(written, text))
