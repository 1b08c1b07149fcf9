"""
The shape of Prosody's mod_post_msg: `POST /msg/<jid>` with a text, a form or JSON.

Unlike the module, it understands parameters of the media type, a percent-encoded path, and `html` in JSON, and it
refuses a message without a body.
"""

from __future__ import annotations

import re

from twisted.words.xish.domish import Element

from component_http.api.desk import Desk
from component_http.api.exchange import Answer, Call, Problem
from component_http.api.reading import properties_of, text_of
from component_http.api.tokens import Token
from component_http.contract.http import FORM, JSON, TEXT
from component_http.contract.xml import Limits, parse_stanzas
from component_http.errors import XmlRefused

NS_XHTML_IM = "http://jabber.org/protocol/xhtml-im"
NS_XHTML = "http://www.w3.org/1999/xhtml"

_FIELDS = ("to", "from", "type", "body", "subject", "id")


async def post(desk: Desk, call: Call, caller: Token, jid: str | None = None) -> Answer:
    """Carry out `POST /msg` and `POST /msg/{jid}`."""
    given = _fields(call)
    wanted: dict[str, object] = {"to": jid, **{name: given[name] for name in _FIELDS if name in given}}
    html = given.get("html")
    if wanted.get("body") is None and html is None:
        raise Problem(422, "body: it is missing")
    wanted.setdefault("body", "")
    children = [html_element(html, desk.limits)] if html is not None else []
    composed = desk.compose([wanted], caller=caller, children=children)
    await desk.push(caller.name, call, composed)
    return Answer(201)


def _fields(call: Call) -> dict[str, object]:
    if call.media_type == TEXT:
        return {"body": text_of(call)}
    return properties_of(call, TEXT, FORM, JSON)


def html_element(html: object, limits: Limits) -> Element:
    """Make the element of XEP-0071 from the inside of its body. Raises `Problem` if that is not well-formed."""
    if not isinstance(html, str):
        raise Problem(422, "html: not a string")
    # The body may be around it or not, and may name its namespace or not.
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
