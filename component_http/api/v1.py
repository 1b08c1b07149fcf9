"""The API's own shape, `/v1`, in the words of the contract with the webhook."""

from __future__ import annotations

from collections.abc import Mapping

from component_http.api.desk import Desk
from component_http.api.exchange import Answer, Call, Problem, json_answer
from component_http.api.iq_requests import answer_properties, question
from component_http.api.links import ReplyLinks
from component_http.api.reading import objects_of
from component_http.api.tokens import Token
from component_http.contract.http import XMPP_XML
from component_http.contract.link import LateReply
from component_http.contract.stanza import Stanza
from component_http.contract.xml import serialize


async def push(desk: Desk, call: Call, caller: Token, kinds: tuple[str, ...]) -> Answer:
    """
    Carry out `POST /v1/messages`, `/v1/presences` and `/v1/stanzas`: send, and do not wait for an answer.

    Args:
        kinds: The kinds that may be sent here; an object that names none makes the first.
    """
    wait = _wait(call)
    timeout = desk.timeout(call)
    composed = desk.compose(objects_of(call), caller=caller, kind=kinds[0])
    for stanza in composed.stanzas:
        if stanza.name not in kinds:
            raise Problem(422, f"kind: only {kinds[0]} is taken here; /v1/stanzas takes every kind")
    pushed = await desk.push(caller.name, call, composed)
    if not wait:
        return json_answer(202, {"ids": list(pushed.ids)})
    sent = await desk.sent(pushed, timeout)
    return json_answer(200 if sent else 202, {"ids": list(pushed.ids), "sent": sent})


def _wait(call: Call) -> bool:
    wait = call.argument("wait")
    if wait not in (None, "sent"):
        raise Problem(400, "wait: the only value is sent")
    return wait is not None


async def ask(desk: Desk, call: Call, caller: Token) -> Answer:
    """Carry out `POST /v1/iq`: ask, and wait for the answer."""
    timeout = desk.timeout(call)
    composed = desk.compose(objects_of(call), caller=caller, kind="iq")
    return _told(call, await desk.ask(composed, timeout))


async def ask_by_name(desk: Desk, call: Call, caller: Token, jid: str, name: str) -> Answer:
    """
    Carry out `GET /v1/ping/{jid}` and the like: ask a question that has a name.

    Args:
        name: One of `iq_requests.QUESTIONS`.
    """
    timeout = desk.timeout(call)
    sender = call.argument("from")
    asked = {"type": "get", "to": jid, **({} if sender is None else {"from": sender})}
    children = [question(name, call.argument("node"))]
    composed = desk.compose([asked], caller=caller, kind="iq", children=children)
    began = desk.seconds()
    answer = await desk.ask(composed, timeout)
    return _told(call, answer, {"seconds": round(desk.seconds() - began, 6)} if name == "ping" else {})


def _told(call: Call, answer: Stanza, more: Mapping[str, object] | None = None) -> Answer:
    properties = {**answer_properties(answer), **(more or {})}
    if answer.type == "error":
        error = properties.get("error")
        condition = error.get("condition") if isinstance(error, dict) else None
        raise Problem(
            502,
            f"the answer is an error: {condition or 'undefined-condition'}",
            members={"condition": condition, "error": error, "stanza": properties["stanza"]},
        )
    if _prefers_xml(call):
        return Answer(200, serialize(answer.element, standalone=True).encode("utf-8"), XMPP_XML)
    return json_answer(200, properties)


def _prefers_xml(call: Call) -> bool:
    accept = call.headers.get("accept", "").lower()
    return XMPP_XML in accept and "json" not in accept


async def late_reply(desk: Desk, call: Call, links: ReplyLinks, delivery_id: str, late: LateReply) -> Answer:
    """Carry out `POST /v1/deliveries/{id}/reply`: send the late reply of a webhook."""
    composed = desk.answer(late.stanza, objects_of(call))
    links.check_allowed(late, composed.stanzas)
    pushed = await desk.push(f"delivery {delivery_id}", call, composed, delivery_id=delivery_id)
    return json_answer(202, {"ids": list(pushed.ids)})
