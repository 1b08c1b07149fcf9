"""A webhook that is a function of the application, without HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from component_http.contract.reply import Response
from component_http.errors import TimedOut, WebhookError
from component_http.interfaces import AnswerFunction
from component_http.log import Logger


class FunctionWebhook:
    """
    Answers each attempt with the result of a function. Implements `component_http.interfaces.Webhook`.

    The result of the function counts as an HTTP response of the contract, and an error as a failed attempt: the
    retries, the deadlines and the breaker are those of any webhook.

    Args:
        timeout: Seconds after which an attempt is cancelled.
    """

    _log = Logger()

    def __init__(self, answer: AnswerFunction, *, timeout: float, clock: IReactorTime) -> None:
        self._answer = answer
        self._timeout = timeout
        self._clock = clock

    async def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Response:
        """
        Call the function, and wait for its answer; cancelling cancels the function.

        Returns:
            200 with the result of the function, 204 for None, the function's own response, or 500 if it raised another
            error, which is logged.

        Raises:
            TimedOut: The function took longer than the limit.
            WebhookError: The function raised it.
        """
        is_cancelled = False

        def ended(result: object) -> None:
            # A function may go on after it was cancelled; nobody waits for its result then.
            if not outcome.called:
                outcome.callback(result)

        def cancel(_: object) -> None:
            nonlocal is_cancelled
            is_cancelled = True
            running.cancel()

        running: Deferred[Any] = maybeDeferred(self._answer, json.loads(body))
        # Do not wait for a function that does not end when it is cancelled.
        outcome: Deferred[Any] = Deferred(cancel)
        running.addBoth(ended)
        try:
            return response_of(await outcome.addTimeout(self._timeout, self._clock, _timed_out))
        except WebhookError:
            raise
        except Exception as error:
            if is_cancelled and isinstance(error, CancelledError):
                raise
            self._log.failure("{id}: the answer function failed", id=headers.get("webhook-id"))
            return Response(500)


class FixedWebhook:
    """Answers each attempt with the same response. Implements `component_http.interfaces.Webhook`."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Response:
        return self._response


def _timed_out(result: object, timeout: float) -> object:
    if isinstance(result, Failure):  # its cancellation, or an error of its own while it cleaned up
        raise TimedOut(f"no answer within {timeout:g} s") from result.value
    return result


def response_of(answer: object) -> Response:
    """Make the response that an answer stands for, as `AnswerFunction` says."""
    if answer is None:
        return Response(204)
    if isinstance(answer, Response):
        return answer
    if not isinstance(answer, Mapping | list | tuple):
        raise TypeError(f"the answer is a {type(answer).__name__}, but must be a dict, a list, a Response or None")
    return Response(200, {"content-type": "application/json"}, json.dumps(answer).encode("utf-8"))
