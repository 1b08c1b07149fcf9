"""
A body in chunks, read from a buffer as it arrives. No socket, no clock.

Source: RFC 9112 section 7.1; tests hold it against h11.
"""

from __future__ import annotations

import re
from enum import Enum, auto

MAX_CHUNK_LINE = 1024
"""Bytes of the line before a chunk, with its extensions; nobody sends any."""

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[^\x00\r\n]*)?\r\n")


class BodyTooLarge(Exception):
    """A body is larger than is read; nothing more can be read from its connection."""


class ChunksMalformed(Exception):
    """A body is not properly chunked; the message says how."""


class TrailerTooLarge(Exception):
    """The trailer fields are larger than is read."""


class _In(Enum):
    """The places in a body of chunks."""

    LINE = auto()
    DATA = auto()
    END = auto()
    TRAILER = auto()


class ChunkedBody:
    """
    Reads one body in chunks. After any exception nothing more can be read.

    Args:
        max_bytes: The largest body that is read.
        max_trailer_bytes: The most bytes of trailer fields.

    Attributes:
        trailer: The lines of the trailer fields, for the caller to check, once the body is complete.
    """

    def __init__(self, max_bytes: int, max_trailer_bytes: int) -> None:
        self.trailer = b""
        self._max_bytes = max_bytes
        self._max_trailer_bytes = max_trailer_bytes
        self._body = bytearray()
        self._in = _In.LINE
        self._left = 0
        self._searched = 0

    def take(self, buffer: bytearray) -> bytes | None:
        """
        Remove from a buffer as much of the body as there is in it, so that the smallest chunks cost little.

        Returns:
            The body; None where it is not complete.

        Raises:
            BodyTooLarge: It is larger than is read, which is known before all of it is there.
            ChunksMalformed: It is not properly chunked.
            TrailerTooLarge: The fields after it are larger than is read.
        """
        at = 0
        try:
            while True:
                if self._in is _In.LINE:
                    line = _CHUNK_LINE.match(buffer, at)
                    if line is None or line.end() - at > MAX_CHUNK_LINE:
                        if len(buffer) - at > MAX_CHUNK_LINE or buffer.find(b"\n", at) >= 0:
                            raise ChunksMalformed("the size of a chunk of the body cannot be read")
                        return None
                    at = line.end()
                    size = int(line[1], 16)
                    if len(self._body) + size > self._max_bytes:
                        raise BodyTooLarge
                    if size and buffer[at + size : at + size + 2] == b"\r\n":
                        # All of it is in: the short way, which halves what a small chunk costs.
                        self._body += buffer[at : at + size]
                        at += size + 2
                        continue
                    self._left = size
                    self._in = _In.DATA if size else _In.TRAILER
                elif self._in is _In.DATA:
                    piece = buffer[at : at + self._left]
                    self._body += piece
                    at += len(piece)
                    self._left -= len(piece)
                    if self._left:
                        return None
                    self._in = _In.END
                elif self._in is _In.END:
                    end = buffer[at : at + 2]
                    if not b"\r\n".startswith(end):
                        raise ChunksMalformed("a chunk of the body does not end where it says")
                    if len(end) < 2:
                        return None
                    at += 2
                    self._in = _In.LINE
                else:
                    trailer = self._trailer_bytes(buffer, at)
                    if trailer is None:
                        return None
                    self.trailer = bytes(buffer[at : at + max(0, trailer - 2)])
                    at += trailer
                    return bytes(self._body)
        finally:
            del buffer[:at]

    def _trailer_bytes(self, buffer: bytearray, at: int) -> int | None:
        """The bytes of the trailer fields and of the empty line after them; None where they are not all in."""
        if buffer.startswith(b"\r\n", at):
            return 2
        end = buffer.find(b"\r\n\r\n", at + max(0, self._searched - 3))
        if max(end, len(buffer) if end < 0 else 0) - at > self._max_trailer_bytes:
            raise TrailerTooLarge
        if end < 0:
            self._searched = len(buffer) - at
            return None
        return end + 4 - at
