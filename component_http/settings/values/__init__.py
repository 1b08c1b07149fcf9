"""The types of the settings' values."""

from __future__ import annotations

from component_http.settings.values.value_type import CREDENTIALS_VARIABLE, shown

__all__ = ["CREDENTIALS_VARIABLE", "shown"]
