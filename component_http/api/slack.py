"""
Turns a message for Slack into a text.

The text has everything that a person would read in Slack, in the same order, without its looks. Each part of the
payload is visited once, so that the work is in proportion to its size.

Source: Slack's documentation of incoming webhooks, of formatting text, and of the reference of blocks and attachments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from component_http.api.exchange import Problem
from component_http.contract.objects import JsonNumber, read_json
from component_http.errors import ReplyRefused

MAX_CHARACTERS = 40_000
"""Characters of a message. Slack cuts off the rest, and so do we."""

MAX_INDENT = 8
"""Levels of a list that are shown; Slack has as many."""

_Object = Mapping[str, object]

_MARK = re.compile(r"<([^<>|\s][^<>|]*+)(?:\|([^<>]*+))?>")
_CHARACTERS = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}
_REFERENCE = re.compile("|".join(_CHARACTERS))
_DATE = re.compile(r"!date\^([0-9]{1,11})\^[^^]*+(?:\^(.*+))?", re.DOTALL)
_UNICODE = re.compile(r"[0-9a-fA-F]{1,5}(?:-[0-9a-fA-F]{1,5}){0,15}")


def slack_text(payload: object) -> str:
    """
    Make a text of a payload for Slack's incoming webhooks.

    The `blocks` are the message if they have a text, else `text` is; then come the `attachments`. A `username` stands
    before all of them.

    Raises:
        Problem: The payload is no message, or a message without a text.
    """
    if not isinstance(payload, dict):
        raise Problem(400, "the JSON is not an object")
    text, username = payload.get("text"), payload.get("username")
    if not isinstance(text, str | None):
        raise Problem(422, "text: not a string")
    pieces = [*_blocks(_listed(payload, "blocks"))] or [_unmarked(text or "")]
    for attachment in _objects(_listed(payload, "attachments")):
        pieces.extend(_attachment(attachment))
    plain = _lines(pieces).strip()
    if not plain:
        raise Problem(422, "text: it is missing")
    if isinstance(username, str) and username:
        plain = f"{_unmarked(username)}: {plain}"
    return shortened(plain, MAX_CHARACTERS)


def shortened(text: str, most: int) -> str:
    """Cut a text to so many characters, the last of which is a mark that there is more."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _listed(payload: _Object, name: str) -> object:
    """Read a list of the payload, which may be JSON in a string, as in the arguments of Slack's API."""
    value = payload.get(name)
    if isinstance(value, str):
        try:
            value = read_json(value.encode("utf-8", "replace")) if value.strip() else None
        except ReplyRefused as refused:
            raise Problem(422, f"{name}: {refused}") from None
    if not isinstance(value, list | None):
        raise Problem(422, f"{name}: not a list")
    return value


def _lines(pieces: Iterable[str]) -> str:
    return "\n".join(piece for piece in pieces if piece)


def _objects(value: object) -> list[dict[str, object]]:
    return [member for member in value if isinstance(member, dict)] if isinstance(value, list) else []


def _word(value: object) -> str:
    """Write a string or a number for a person; "" for anything else."""
    if isinstance(value, JsonNumber):
        return value.text
    return value if isinstance(value, str) else ""


def _linked(label: str, url: str) -> str:
    """Write a link as a person would."""
    return f"{label} ({url})" if url and label and label != url else label or url


# --- Text with marks


def _unmarked(text: str) -> str:
    """Write Slack's marks for links, names and dates as a person would, and its three references as characters."""
    return _referenced(_MARK.sub(_written, text))


def _referenced(text: str) -> str:
    return _REFERENCE.sub(lambda match: _CHARACTERS[match[0]], text)


def _written(match: re.Match[str]) -> str:
    target, label = match[1], match[2] or ""
    if target.startswith("!date^"):
        return _date(target, label)
    if target[0] in "!@#":
        mark = "#" if target[0] == "#" else "@"
        # An id may follow: of a group of users, after its kind.
        name = label or target[1:].rpartition("^")[2]
        return f"{mark}{name.lstrip(mark)}"
    return _linked(label, target.removeprefix("mailto:").removeprefix("tel:"))


def _date(target: str, label: str) -> str:
    """Write a date that Slack shows in each reader's time zone; the label is the sender's own text for it."""
    date = _DATE.fullmatch(target)
    if date is None:
        return label
    return _linked(label or datetime.fromtimestamp(int(date[1]), UTC).strftime("%Y-%m-%d %H:%M UTC"), date[2] or "")


def _text(value: object) -> str:
    """Read a text object, or the string with marks that old messages have in its place."""
    if isinstance(value, dict):
        text = _word(value.get("text"))
        return _referenced(text) if value.get("type") == "plain_text" else _unmarked(text)
    return _unmarked(_word(value))


# --- Attachments


def _attachment(attachment: _Object) -> list[str]:
    title, link = _text(attachment.get("title")), _word(attachment.get("title_link"))
    pieces = [
        _text(attachment.get("pretext")),
        _linked(_text(attachment.get("author_name")), _word(attachment.get("author_link"))),
        title,
        "" if link == title else link,
        _text(attachment.get("text")),
        *(_titled(field) for field in _objects(attachment.get("fields"))),
        *_blocks(_listed(attachment, "blocks")),
        *_buttons(attachment.get("actions")),
        _word(attachment.get("image_url")),
        _text(attachment.get("footer")),
    ]
    return pieces if any(pieces) else [_text(attachment.get("fallback"))]


def _titled(field: _Object) -> str:
    return ": ".join(word for name in ("title", "value") if (word := _text(field.get(name))))


def _buttons(elements: object) -> list[str]:
    """Write the links among buttons, because the other buttons cannot be pressed here."""
    return [
        _linked(_text(element.get("text")), url) for element in _objects(elements) if (url := _word(element.get("url")))
    ]


# --- Blocks


def _blocks(blocks: object) -> list[str]:
    """Write each block that has a text."""
    return [said for block in _objects(blocks) if (said := _BLOCKS.get(_word(block.get("type")), _section)(block))]


def _section(block: _Object) -> str:
    """Write a section, or a block of a type that is not known here."""
    accessory = block.get("accessory")
    pieces = [_text(block.get("text")), *(_text(field) for field in _objects(block.get("fields")))]
    if isinstance(accessory, dict):
        pieces.append(_image(accessory) if accessory.get("type") == "image" else _lines(_buttons([accessory])))
    return _lines(pieces)


def _context(block: _Object) -> str:
    return " ".join(
        said
        for element in _objects(block.get("elements"))
        if (said := _word(element.get("alt_text")) if element.get("type") == "image" else _text(element))
    )


def _image(block: _Object) -> str:
    file = block.get("slack_file")
    url = _word(block.get("image_url")) or (_word(file.get("url")) if isinstance(file, dict) else "")
    return _lines([_text(block.get("title")), _linked(_word(block.get("alt_text")), url)])


def _video(block: _Object) -> str:
    url = _word(block.get("title_url")) or _word(block.get("video_url"))
    return _lines([_linked(_text(block.get("title")), url), _text(block.get("description"))])


def _table(block: _Object) -> str:
    rows = block.get("rows")
    return _lines(
        " | ".join(_rich_text(cell) if cell.get("type") == "rich_text" else _word(cell.get("text")) for cell in cells)
        for row in (rows if isinstance(rows, list) else [])
        if (cells := _objects(row))
    )


def _rich_text(block: _Object) -> str:
    pieces = []
    for part in _objects(block.get("elements")):
        kind = part.get("type")
        if kind == "rich_text_list":
            pieces.append(_list(part))
        elif kind == "rich_text_quote":
            pieces.append("\n".join(f"> {line}" for line in _inline(part).split("\n")))
        elif kind == "rich_text_preformatted":
            pieces.append(f"```\n{_inline(part)}\n```")
        else:
            pieces.append(_inline(part))
    return _lines(pieces)


def _list(part: _Object) -> str:
    indent = "  " * min(_number(part.get("indent")), MAX_INDENT)
    first = _number(part.get("offset")) + 1 if part.get("style") == "ordered" else None
    return "\n".join(
        f"{indent}{'•' if first is None else f'{first + place}.'} {_inline(item)}"
        for place, item in enumerate(_objects(part.get("elements")))
    )


def _number(value: object) -> int:
    text = _word(value)
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else 0


def _inline(part: _Object) -> str:
    return "".join(
        _INLINE[kind](element) if (kind := _word(element.get("type"))) in _INLINE else _word(element.get("text"))
        for element in _objects(part.get("elements"))
    )


def _emoji(element: _Object) -> str:
    name, code = _word(element.get("name")), _word(element.get("unicode"))
    points = [int(point, 16) for point in code.split("-")] if _UNICODE.fullmatch(code) else []
    if points and max(points) <= 0x10FFFF:
        return "".join(map(chr, points))
    return f":{name}:" if name else ""


_BLOCKS: Mapping[str, Callable[[_Object], str]] = {
    "actions": lambda block: _lines(_buttons(block.get("elements"))),
    "context": _context,
    "image": _image,
    "input": lambda block: _text(block.get("label")),
    "markdown": lambda block: _word(block.get("text")),
    "rich_text": _rich_text,
    "table": _table,
    "video": _video,
}

_INLINE: Mapping[str, Callable[[_Object], str]] = {
    "broadcast": lambda element: f"@{_word(element.get('range'))}",
    "channel": lambda element: f"#{_word(element.get('channel_id'))}",
    "color": lambda element: _word(element.get("value")),
    "date": lambda element: _word(element.get("fallback")),
    "emoji": _emoji,
    "link": lambda element: _linked(_word(element.get("text")), _word(element.get("url"))),
    "user": lambda element: f"@{_word(element.get('user_id'))}",
    "usergroup": lambda element: f"@{_word(element.get('usergroup_id'))}",
}
