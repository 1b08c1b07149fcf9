"""
The shape of Prosody's mod_post_msg: `POST /msg/<jid>` with a text, a form or JSON.

Done right where the module is not: parameters of the media type, a percent-encoded path, `html` in JSON too, and a
message without a body, which is refused.
"""

from __future__ import annotations

import re

from twisted.words.xish.domish import Element

from component_http.api.desk import Desk
from component_http.api.exchange import Answer, Call, Problem
from component_http.api.reading import form_of, json_of, text_of, unsupported
from component_http.api.tokens import Caller
from component_http.contract.http import FORM, JSON, TEXT, is_json
from component_http.contract.xml import Limits, parse_stanzas
from component_http.errors import XmlRefused

__all__ = ["html_element", "post"]

NS_XHTML_IM = "http://jabber.org/protocol/xhtml-im"
NS_XHTML = "http://www.w3.org/1999/xhtml"

_FIELDS = ("to", "from", "type", "body", "subject", "id")


async def post(desk: Desk, call: Call, caller: Caller, to: str | None) -> Answer:
    """
    `POST /msg` and `POST /msg/{jid}`.

    Args:
        desk: Sends.
        call: The request.
        caller: Who wants it.
        to: The address in the path, or None.
    """
    given = _fields(call)
    wanted: dict[str, object] = {"to": to, **{name: given[name] for name in _FIELDS if name in given}}
    html = given.get("html")
    if wanted.get("body") is None and html is None:
        raise Problem(422, "body: it is missing")
    # A message of nothing but html still says something.
    wanted.setdefault("body", "")
    children = [html_element(html, desk.limits)] if html is not None else []
    composed = desk.compose([wanted], caller=caller, children=children)
    await desk.push(caller.token.name, call, composed)
    return Answer(201)


def _fields(call: Call) -> dict[str, object]:
    if call.media_type == TEXT:
        return {"body": text_of(call)}
    if call.media_type == FORM:
        return dict(form_of(call))
    if not is_json(call.media_type):
        raise unsupported(call, TEXT, FORM, JSON)
    value = json_of(call)
    if not isinstance(value, dict):
        raise Problem(400, "the JSON is not an object")
    return value


def html_element(html: object, limits: Limits) -> Element:
    """
    Make the element of XEP-0071 from the inside of its body.

    Args:
        html: XHTML as text.
        limits: What it keeps to.

    Raises:
        Problem: It is no text, or not well-formed.
    """
    if not isinstance(html, str):
        raise Problem(422, "html: not a string")
    # With its body around it or without, and whether or not that says of which namespace it is.
    html = html.strip()
    inner = html if re.match(r"<(?:\w+:)?body[\s>/]", html) else f"<body>{html}</body>"
    try:
        [outer] = parse_stanzas(f"<html xmlns='{NS_XHTML}'>{inner}</html>", limits)
        [body] = outer.children
    except XmlRefused as error:
        raise Problem(422, f"html: {error}") from None
    except ValueError:
        raise Problem(422, "html: not one piece of XHTML") from None
    if not isinstance(body, Element) or (body.uri, body.name) != (NS_XHTML, "body"):
        raise Problem(422, "html: not one piece of XHTML")
    element = Element((NS_XHTML_IM, "html"))
    element.addChild(body)
    return element
