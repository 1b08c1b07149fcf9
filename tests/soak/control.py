"""
One line of JSON in, one line of JSON out: how the processes of a run are told what to do.

The child stops by itself when its standard input ends, so nothing is left behind however the parent ends.
"""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.integration.closing import Closing
from tests.integration.processes import CHECKOUT

__all__ = ["Child", "obey"]

LIFETIME = 3600.0
"""Seconds after which a child ends whatever happens."""


async def obey(commands: Mapping[str, Callable[..., Any]]) -> None:
    """
    Carry out commands until standard input ends.

    Args:
        commands: By name; called with the other properties of the line. What they return is the answer.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    deadline = loop.time() + LIFETIME
    while True:
        try:
            line = await asyncio.wait_for(reader.readline(), deadline - loop.time())
        except TimeoutError:
            return
        if not line:
            return
        asked = json.loads(line)
        answer = commands[asked.pop("do")](**asked)
        if asyncio.iscoroutine(answer):
            answer = await answer
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class Child(Closing):
    """
    A process that obeys.

    Args:
        module: What `python -m` runs.
        errors: Where its standard error goes.
        arguments: The one JSON argument of its command line.
    """

    def __init__(self, module: str, errors: Path, **arguments: Any) -> None:
        self._module = module
        self._errors = errors
        with errors.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(arguments)],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def ask(self, do: str, **arguments: Any) -> Any:
        """
        Have a command carried out.

        Returns:
            The answer.

        Raises:
            AssertionError: It ended, or did not answer in time.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=60.0)
        except queue.Empty:
            raise AssertionError(f"{self._module} did not answer to {do}") from None
        if not line:
            raise AssertionError(f"{self._module} ended:\n{self._errors.read_text(errors='replace')}")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10.0)
        self._thread.join(5.0)
        assert self._process.stdout is not None
        self._process.stdout.close()
