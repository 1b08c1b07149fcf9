"""What another user of the machine is told."""

from __future__ import annotations

import os
from collections.abc import Callable

from component_http.errors import SettingsError


def refusal_as(user: int, action: Callable[[], object]) -> str:
    """
    Do something in a child process of another user.

    Args:
        user: The number of the user; where this process is not root, the child stays what it is.
        action: Is to raise a `SettingsError`.

    Returns:
        The text of that error, or "" where there was none.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setuid(user)
            action()
        except SettingsError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as told:
        return told.read()
