"""Reports of attempts, for those who follow deliveries."""

from __future__ import annotations

from component_http.contract.reply import Response
from component_http.interfaces.tracer import ANSWER_BYTES, AttemptReport, Follows, Marks


def report_of(
    number: int,
    began: float,
    seconds: float,
    marks: object,
    result: Response | BaseException | None,
    follows: Follows,
    again: float | None = None,
) -> AttemptReport:
    """
    Make the report of an attempt.

    Args:
        marks: The `Marks` of its POST; anything else where nobody measured them.
        result: The response, or the error that took its place.
    """
    connecting = first_byte = None
    if isinstance(marks, Marks):
        connecting = None if marks.connected is None else marks.connected - marks.turn
        first_byte = None if marks.first_byte is None else marks.first_byte - began
    status, failure, answer = None, None, b""
    if isinstance(result, Response):
        status, answer = result.status, (result.body or b"")[:ANSWER_BYTES]
    else:
        failure = str(result) or ("it was cut off" if follows == "cut_off" else type(result).__name__)
    return AttemptReport(number, began, seconds, connecting, first_byte, status, failure, answer, follows, again)
