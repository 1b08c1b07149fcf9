"""
How a setting is declared: its type, its default, and the sentences that explain it.

The reader of settings files, the flags, `--help` and the configuration reference are made from these declarations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from attrs import NOTHING, Attribute, Converter, field, frozen

from component_http.settings.values.value_type import ValueType, accepted


@frozen
class About:
    """
    What is known about a setting beside its name and its default.

    Attributes:
        value_type: The type of its value.
        help: Says what the setting is for; a phrase that starts in lower case.
        why: Gives the reason for the default and the limits.
        example: A value to start from, as TOML, for a setting without a default.
        aliases: Shorter names of its flag.
        hidden: Whether only an application may give it, neither a file nor a flag.
        required: Whether a gateway needs it, unless the application replaces it.
        retired: The reason why it does nothing any more; "" for a setting in use. The reference leaves it out.
        rows: The table that each [[...]] of this name in a settings file makes; None for a single value.
    """

    value_type: ValueType
    help: str
    why: str = ""
    example: str = ""
    aliases: tuple[str, ...] = ()
    hidden: bool = False
    required: bool = False
    retired: str = ""
    rows: type[Table] | None = None


class Table:
    """
    Settings that belong together.

    Attributes:
        TABLE: The name of the table in a settings file.
    """

    TABLE: ClassVar[str] = ""
    __slots__ = ()


def about(attribute: Attribute[Any]) -> About:
    """Return what is known about a field that `setting` made."""
    known: About = attribute.metadata["about"]
    return known


def label_of(table: Any, key: str) -> str:
    """Name a setting for a sentence: its key, with the name of its table in front."""
    return f"{table.TABLE}.{key}" if table.TABLE else key


def setting(
    type: ValueType,
    help: str,
    *,
    default: Any = NOTHING,
    show: bool | Callable[[Any], str] = True,
    resolve: Callable[[Any, Any], object] | None = None,
    **others: Any,
) -> Any:
    """
    Declare a setting: a field that checks the value it is given.

    Args:
        type: The type of its value.
        help: Says what the setting is for; a phrase that starts in lower case.
        default: The default; None also means that None is allowed. Without a default the field is required.
        show: Whether, or how, `repr` shows the value.
        resolve: Makes the value from the one given and the instance, whose earlier fields are set. It replaces the
            check of the type.
        others: The other attributes of `About`.
    """
    converter: Any = (
        Converter(_check, takes_self=True, takes_field=True) if resolve is None else Converter(resolve, takes_self=True)
    )
    metadata = {"about": About(type, help, **others), "resolve": resolve}
    return field(default=default, kw_only=True, repr=show, converter=converter, metadata=metadata)


def _check(value: object, owner: Any, attribute: Attribute[Any]) -> object:
    if value is None and attribute.default is None:
        return None
    return accepted(label_of(owner, attribute.name), value, about(attribute).value_type)


def retired(reason: str) -> Any:
    """
    Declare a setting of earlier versions. Any value is accepted and does nothing; `Settings.warnings` tells of it.

    Args:
        reason: Completes "is not used any more, because ...".
    """
    return setting(
        ValueType("anything", lambda value: value), "not used any more", default=None, show=False, retired=reason
    )


def rows(table: type[Table], help: str) -> Any:
    """Declare a field that holds any number of tables of one class; it is empty by default."""

    def accept(value: Any) -> tuple[Table, ...]:
        given = tuple(value)
        if not all(isinstance(row, table) for row in given):
            raise TypeError(f"every {table.TABLE} must be a {table.__name__}")
        return given

    return setting(ValueType(f"tables: [[{table.TABLE}]]", accept, None), help, default=(), rows=table)
