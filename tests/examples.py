"""How many examples Hypothesis makes of a property that needs more, or can do with less, than the profile has."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

__all__ = ["examples"]


def examples(thorough: int, *, same: bool = True) -> Any:
    """
    Args:
        thorough: How many with the profile of that name (`tests/conftest.py`); with the quick one it is a quarter.
        same: They are the same each time.
    """
    count = thorough if settings.get_current_profile_name() == "thorough" else thorough // 4
    return settings(max_examples=count, derandomize=True, database=None) if same else settings(max_examples=count)
