"""Describes the API for machines (OpenAPI 3.1), at `GET /v1/openapi.json`; a test compares it with the routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from component_http.contract.composing import MAX_REPLIES
from component_http.contract.http import FORM, JSON, PROBLEM_JSON, TEXT, XMPP_XML

_Object = dict[str, Any]


def _ref(kind: str, name: str) -> _Object:
    return {"$ref": f"#/components/{kind}/{name}"}


def _content(schema: _Object, *media_types: str) -> _Object:
    """Describe a body of one of some media types, or of JSON."""
    return {media_type: {"schema": schema} for media_type in media_types or (JSON,)}


def _body(*contents: _Object) -> _Object:
    return {"required": True, "content": {name: schema for content in contents for name, schema in content.items()}}


_STRING = {"type": "string"}
_OBJECT = {"type": "object"}
_ADDRESS = {"type": "string", "description": "an XMPP address", "examples": ["alice@example.org"]}

_ERRORS: Mapping[int, str] = {
    400: "The request cannot be read.",
    401: "No token, or one that nobody knows.",
    403: "The token, the link, or the chat room, does not allow this.",
    404: "There is no such thing, chat room or log, or the link is not one of ours.",
    409: "A request with this Idempotency-Key is under way, no nick is free in the chat room, or there is no replay.",
    410: "It is too late for a reply.",
    413: "The body is too large, as it came or after decompression.",
    415: "The media type, the content coding or the charset of the body is not read here.",
    422: "The request can be read, but what it wants cannot be done.",
    429: "Too many requests.",
    500: "An internal error of the gateway.",
    502: "The answer is an error, or the stanza came back or could not be sent in its time.",
    503: "There is no room for it now.",
    504: "There was no answer in time.",
}
_WAIT = (429, 503)
_OF_BODY = (400, 413, 415, 422)
_OF_TOKEN = (401, 403, 429)
_OF_PUSH = (404, 409, 502, 503)
_OF_IQ = (502, 503, 504)


def _problems(*statuses: int, content: _Object) -> _Object:
    responses: _Object = {}
    for status in sorted({*statuses, 500}):
        responses[str(status)] = {"description": _ERRORS[status], "content": content}
        if status in _WAIT:
            responses[str(status)]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return responses


_PROBLEM = _content(_ref("schemas", "Problem"), PROBLEM_JSON)
_XML = _content(_STRING, XMPP_XML)
_REST_ERROR = {**_content(_ref("schemas", "RestError")), **_XML}
_PLAIN = _content(_STRING, TEXT)
_IDS = _content(_ref("schemas", "Ids"))

_KEY = _ref("parameters", "IdempotencyKey")
_TIMEOUT = _ref("parameters", "Timeout")

_STANZA = _ref("schemas", "Stanza")
_STANZAS = {"oneOf": [_STANZA, {"type": "array", "items": _STANZA, "maxItems": MAX_REPLIES}]}
_OBJECTS = _body(_content(_STANZAS), _XML)
_KEPT: _Object = {"description": "It is kept until the XMPP server has it."}


def _path_parameter(name: str, description: str, schema: _Object | None = None) -> _Object:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema or _STRING}


def _push(summary: str) -> _Object:
    return {
        "summary": summary,
        "parameters": [_KEY, _ref("parameters", "Wait"), _TIMEOUT],
        "requestBody": _OBJECTS,
        "responses": {
            "200": {"description": "The XMPP server has it (only with wait=sent).", "content": _IDS},
            "202": {**_KEPT, "content": _IDS},
            **_problems(*_OF_BODY, *_OF_TOKEN, *_OF_PUSH, content=_PROBLEM),
        },
    }


def _question(summary: str, *, node: bool = False) -> _Object:
    parameters = [
        _path_parameter("jid", "the address to ask; a slash in it may stand as it is", _ADDRESS),
        {"name": "from", "in": "query", "description": "the address that asks", "schema": _ADDRESS},
        _TIMEOUT,
    ]
    if node:
        parameters.append({"name": "node", "in": "query", "description": "the node to ask about", "schema": _STRING})
    return {"summary": summary, "parameters": parameters, "responses": _answers(400, 422)}


def _answers(*statuses: int) -> _Object:
    return {
        "200": {"description": "The answer.", "content": {**_content(_ref("schemas", "Answer")), **_XML}},
        **_problems(*statuses, *_OF_TOKEN, *_OF_IQ, content=_PROBLEM),
    }


def _msg(*parameters: _Object) -> _Object:
    return {
        "summary": "Send a message, as mod_post_msg does.",
        "parameters": [*parameters, _KEY],
        "requestBody": _body(_content(_STRING, TEXT), _content(_OBJECT, FORM, JSON)),
        "responses": {"201": _KEPT, **_problems(*_OF_BODY, *_OF_TOKEN, *_OF_PUSH, content=_PLAIN)},
    }


def _rest_responses(*statuses: int) -> _Object:
    return {
        "200": {
            "description": "The answer to an iq, also if it is an error.",
            "content": {**_content(_OBJECT, JSON, FORM), **_XML},
        },
        **_problems(*statuses, *_OF_TOKEN, 503, 504, content=_REST_ERROR),
    }


def _rest(*parameters: _Object) -> _Object:
    return {
        "summary": "Send a stanza, as mod_rest does; with an iq, wait for the answer.",
        "description": "A property of mod_rest that would not be sent is refused by its name.",
        "parameters": [*parameters, _KEY, _TIMEOUT],
        "requestBody": {"content": {**_content(_OBJECT, JSON, FORM), **_content(_STRING, XMPP_XML, TEXT)}},
        "responses": {"202": _KEPT, **_rest_responses(*_OF_BODY, *_OF_PUSH)},
    }


_DELIVERIES: _Object = {
    "type": "object",
    "properties": {
        "deliveries": {"type": "array", "items": _OBJECT},
        "before": {"type": ["integer", "null"]},
    },
}

_PATHS: Mapping[str, Mapping[str, _Object]] = {
    "/v1/messages": {"post": _push("Send messages.")},
    "/v1/presences": {"post": _push("Send presence.")},
    "/v1/stanzas": {"post": _push("Send stanzas of any kind.")},
    "/v1/iq": {
        "post": {
            "summary": "Ask, and wait for the answer.",
            "parameters": [_TIMEOUT],
            "requestBody": _body(_content(_STANZA), _XML),
            "responses": _answers(*_OF_BODY),
        }
    },
    "/v1/ping/{jid}": {"get": _question("Ask whether an address is there. (XEP-0199)")},
    "/v1/disco/{jid}": {"get": _question("Ask an address for its identity and features. (XEP-0030)", node=True)},
    "/v1/items/{jid}": {"get": _question("Ask an address for its items. (XEP-0030)", node=True)},
    "/v1/version/{jid}": {"get": _question("Ask an address for its software. (XEP-0092)")},
    "/v1/webhook/wake": {
        "post": {
            "summary": "Ask the webhook at once, because it is back; for tokens with admin = true.",
            "responses": {
                "200": {
                    "description": "The state of the webhook: closed, open, half_open, gone, none, or stopping. Of"
                    " several components: the least well state, and in webhooks that of each by its domain.",
                    "content": _content(
                        {
                            "type": "object",
                            "properties": {
                                "webhook": _STRING,
                                "webhooks": {"type": "object", "additionalProperties": _STRING},
                            },
                        }
                    ),
                },
                **_problems(*_OF_TOKEN, content=_PROBLEM),
            },
        }
    },
    "/v1/deliveries": {
        "get": {
            "summary": "List deliveries that have ended, the newest first; for tokens with admin = true.",
            "parameters": [
                {"name": "from", "in": "query", "description": "the user, bare or full", "schema": _ADDRESS},
                {"name": "to", "in": "query", "description": "the component's address", "schema": _ADDRESS},
                *(
                    {"name": name, "in": "query", "description": told, "schema": _STRING}
                    for name, told in (
                        ("outcome", "outcomes with commas between them"),
                        ("kind", "kinds with commas between them"),
                        ("since", "accepted since then, as 2026-11-26T14:00:00Z"),
                        ("until", "accepted before then, likewise"),
                        ("before", "the `before` of the answer before: go on there"),
                        ("limit", "so many at most, 1 to 1000"),
                    )
                ),
            ],
            "responses": {
                "200": {
                    "description": "Deliveries without their attempts, and where the next call goes on, or null.",
                    "content": _content(_DELIVERIES),
                },
                **_problems(400, 404, 503, *_OF_TOKEN, content=_PROBLEM),
            },
        }
    },
    "/v1/deliveries/{delivery_id}": {
        "get": {
            "summary": "Show the life of a delivery and its replays; for tokens with admin = true.",
            "parameters": [_path_parameter("delivery_id", "the webhook-id")],
            "responses": {
                "200": {"description": "The delivery, and its replays.", "content": _content(_DELIVERIES)},
                **_problems(404, 503, *_OF_TOKEN, content=_PROBLEM),
            },
        }
    },
    "/v1/deliveries/{delivery_id}/replay": {
        "post": {
            "summary": "POST a delivery to the webhook once more; for tokens with admin = true.",
            "parameters": [
                _path_parameter("delivery_id", "the webhook-id"),
                {
                    "name": "send",
                    "in": "query",
                    "description": "send what the webhook answers; never the answer to an iq",
                    "schema": {"enum": ["true", "false"]},
                },
            ],
            "responses": {
                "200": {
                    "description": "The replay, and whether its stanzas were sent.",
                    "content": _content(
                        {
                            "type": "object",
                            "properties": {"refused": {"type": "null"}, "sent": {"type": "boolean"}, "replay": _OBJECT},
                        }
                    ),
                },
                **_problems(400, 404, 409, 503, *_OF_TOKEN, content=_PROBLEM),
            },
        }
    },
    "/v1/deliveries/{id}/reply": {
        "post": {
            "summary": "Reply to a request of the gateway later, by the link that it came with.",
            "description": "Each stanza must come from the bare address that the message went to, and go to its sender,"
            ' or to the room if it was said in a room; unless the gateway has the setting `reply_links = "wide"`.',
            "security": [],
            "parameters": [
                _path_parameter("id", "the webhook-id"),
                {"name": "seal", "in": "query", "required": True, "schema": _STRING},
                _KEY,
            ],
            "requestBody": _OBJECTS,
            "responses": {
                "202": {**_KEPT, "content": _IDS},
                **_problems(*_OF_BODY, 403, 404, 409, 410, 429, 503, content=_PROBLEM),
            },
        }
    },
    "/v1/openapi.json": {
        "get": {
            "summary": "This description.",
            "security": [],
            "responses": {"200": {"description": "The description.", "content": _content(_OBJECT)}},
        }
    },
    "/hooks/{secret}": {
        "post": {
            "summary": "Send a message to the recipients in the settings, in Slack's shape or by a template.",
            "description": "JSON is read whatever its media type is. A hook with a template takes plain text, too.",
            "security": [],
            "parameters": [_path_parameter("secret", "the secret of the hook"), _KEY],
            "requestBody": _body(
                _content({}, JSON, "*/*"),
                _content({"type": "object", "properties": {"payload": _STRING}, "required": ["payload"]}, FORM),
            ),
            "responses": {
                "200": {**_KEPT, "content": _PLAIN},
                **_problems(*_OF_BODY, *_OF_PUSH, 403, 429, content=_PROBLEM),
            },
        }
    },
    "/msg": {"post": _msg()},
    "/msg/{jid}": {"post": _msg(_path_parameter("jid", "the recipient", _ADDRESS))},
    "/rest": {"post": _rest()},
    "/rest/{kind}/{type}/{to}": {
        "post": _rest(
            _path_parameter("kind", "message, presence or iq"),
            _path_parameter("type", "the type of the stanza; for an iq it may be the name of a question"),
            _path_parameter("to", "the recipient", _ADDRESS),
        )
    },
    "/rest/{query}/{to}": {
        "get": {
            "summary": "Ask a question that has a name.",
            "parameters": [
                _path_parameter("query", "disco, items, lastactivity, ping, time or version"),
                _path_parameter("to", "the address to ask", _ADDRESS),
                {"name": "node", "in": "query", "schema": _STRING},
                _TIMEOUT,
            ],
            "responses": _rest_responses(400, 422),
        }
    },
}

_STANZA_PROPERTIES: Mapping[str, _Object] = {
    **dict.fromkeys(("to", "from"), _ADDRESS),
    "kind": {"enum": ["message", "presence", "iq"]},
    **dict.fromkeys(("type", "id", "lang", "subject", "thread", "nick", "state", "oob_url", "replace"), _STRING),
    "body": {"type": ["string", "number", "boolean"]},
    "reply": {"type": "object", "properties": {"id": _STRING, "to": _ADDRESS}, "required": ["id"]},
    "show": {"enum": ["away", "chat", "dnd", "xa"]},
    "status": _STRING,
    "priority": {"type": "integer", "minimum": -128, "maximum": 127},
    "error": {"type": "object", "properties": dict.fromkeys(("condition", "type", "text"), _STRING)},
    "stanza": {"type": "string", "description": "XML that is sent unchanged"},
}

_COMPONENTS: _Object = {
    "securitySchemes": {
        "bearer": {"type": "http", "scheme": "bearer"},
        "basic": {"type": "http", "scheme": "basic", "description": "the token is the password"},
    },
    "parameters": {
        "IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "the same key within 24 hours gets the same answer and sends nothing again",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        },
        "Wait": {
            "name": "wait",
            "in": "query",
            "description": "answer when the XMPP server has it",
            "schema": {"enum": ["sent"]},
        },
        "Timeout": {
            "name": "timeout",
            "in": "query",
            "description": "seconds to wait at most",
            "schema": {"type": "number", "exclusiveMinimum": 0},
        },
    },
    "schemas": {
        "Stanza": {
            "type": "object",
            "description": "A reply of the contract with the webhook. Only `to`, or a `stanza` with a `to`,"
            " is required.",
            "properties": _STANZA_PROPERTIES,
        },
        "Ids": {
            "type": "object",
            "properties": {
                "ids": {"type": "array", "items": _STRING},
                "sent": {"type": "boolean", "description": "the XMPP server has it; only with wait=sent"},
            },
            "required": ["ids"],
        },
        "Answer": {
            "type": "object",
            "properties": {
                **dict.fromkeys(("to", "from"), _ADDRESS),
                **dict.fromkeys(("kind", "type", "id", "stanza"), _STRING),
                "seconds": {"type": "number", "description": "how long a ping took"},
                "disco": _OBJECT,
                "items": {"type": "array", "items": _OBJECT},
                "version": _OBJECT,
            },
            "required": ["to", "from", "kind", "type", "stanza"],
        },
        "Problem": {
            "type": "object",
            "description": "RFC 9457",
            "properties": {**dict.fromkeys(("type", "title", "detail"), _STRING), "status": {"type": "integer"}},
            "required": ["type", "title", "status", "detail"],
        },
        "RestError": {
            "type": "object",
            "properties": {
                "type": {"const": "error"},
                "code": {"type": "integer"},
                "error": {"type": "object", "properties": dict.fromkeys(("type", "condition", "text"), _STRING)},
            },
            "required": ["type", "code", "error"],
        },
    },
}


def document(version: str) -> _Object:
    """Make the whole description, for this version of the program."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "component-http",
            "version": version,
            "description": "Send to XMPP by HTTP. The body of every request may be compressed by gzip or deflate.",
        },
        "security": [{"bearer": []}, {"basic": []}],
        "paths": _PATHS,
        "components": _COMPONENTS,
    }
