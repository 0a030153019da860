"""Typed settings: dataclass fields that carry their help, range and flag.

The checks of a settings object, its form in `run.json` and the flags of the
commands are derived from these fields. The module imports nothing heavy.
"""

import csv
import dataclasses
import io
import math
import os
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from tf_instdisc.errors import UsageError
from tf_instdisc.paths import checked_path
from tf_instdisc.text import did_you_mean


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field accepts, and how it is shown.

    Attributes:
        help: A description of the field, as `--help` shows it.
        choices: The accepted values; if empty, all values are accepted.
        least: The smallest value.
        most: The largest value.
        excludes_least: Whether `least` itself is out of range.
        excludes_most: Whether `most` itself is out of range.
        is_filled: Whether an empty tuple is rejected.
        is_rising: Whether a tuple must be positive and strictly increasing.
        is_path: Whether it is a path, stored as text, with `~` expanded.
        is_required: Whether None, the default, is rejected.
        is_repeatable: Whether the flag is given once for each member.
        flag: The name of the flag; by default the name of the field.
    """

    help: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    excludes_least: bool = False
    excludes_most: bool = False
    is_filled: bool = False
    is_rising: bool = False
    is_path: bool = False
    is_required: bool = False
    is_repeatable: bool = False
    flag: str | None = None


def setting(default: Any, help: str, **rule: Any) -> Any:
    """Returns a dataclass field with a `Rule` of the given arguments."""
    return dataclasses.field(
        default=default, metadata={"rule": Rule(help, **rule)}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The base of frozen dataclasses whose fields are created by `setting`.

    The fields of an object are checked, and `~` in paths is expanded. A
    subclass that checks more calls `super().__post_init__()` first.

    Raises:
        UsageError: If a value is of the wrong type or out of range.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if is_setting(field):
                value = checked(type(self), field, getattr(self, field.name))
                object.__setattr__(self, field.name, value)


def rule_of(field: dataclasses.Field) -> Rule:
    """Returns the rule of a field."""
    return field.metadata["rule"]


def flag_of(field: dataclasses.Field) -> str:
    """Returns the name of a field's flag, without dashes."""
    return rule_of(field).flag or field.name


def kind_of(settings: type, field: dataclasses.Field) -> tuple[type, bool]:
    """Returns the type of a field's value, or of a tuple's members, and
    whether it is a tuple. None is ignored in a union."""
    kind = typing.get_type_hints(settings)[field.name]
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is tuple:
        return typing.get_args(kind)[0], True
    return kind, False


def is_setting(field: dataclasses.Field) -> bool:
    """Returns whether `setting` created a field; others hold settings."""
    return "rule" in field.metadata


def checked(settings: type, field: dataclasses.Field, value: Any) -> Any:
    """Returns a value in the form that the settings class stores.

    Raises:
        UsageError: If the value is of the wrong type or out of range.
    """
    rule = rule_of(field)
    kind, is_tuple = kind_of(settings, field)
    if value is None and rule.is_required:
        raise UsageError(f"The flag --{flag_of(field)} is required.")
    if value is None and field.default is None:
        return None
    if not is_tuple:
        return _checked(field.name, value, kind, rule)
    _require_type(field.name, value, (tuple, list))
    value = tuple(_checked(field.name, v, kind, rule) for v in value)
    if rule.is_filled and not value:
        known = f" of {', '.join(rule.choices)}" if rule.choices else ""
        raise UsageError(
            f"`{field.name}` must have at least one value{known}. Received: "
            f"{field.name}=[]"
        )
    if rule.is_rising and any(
        low >= high for low, high in zip((0, *value), value, strict=False)
    ):
        raise UsageError(
            f"`{field.name}` must be positive and increasing. Received: "
            f"{field.name}={list(value)}"
        )
    return value


def _checked(name: str, value: Any, kind: type, rule: Rule) -> Any:
    number = {int: Integral, float: Real}.get(kind)
    if number and isinstance(value, number) and not isinstance(value, bool):
        value = kind(value)  # A NumPy number, or an int for a float.
    if rule.is_path and isinstance(value, os.PathLike):
        value = os.fspath(value)
    _require_type(name, value, (kind,))
    if rule.choices:
        require_choice(name, value, rule.choices)
    if rule.is_path:
        return checked_path(value, name)
    if kind in (int, float):
        high = math.inf if rule.most is None else rule.most
        low = -math.inf if rule.least is None else rule.least
        is_over = value >= high if rule.excludes_most else value > high
        is_under = value <= low if rule.excludes_least else value < low
        if not math.isfinite(value):
            raise UsageError(
                f"`{name}` must be a finite number. Received: {name}={value}"
            )
        if is_under or is_over:
            raise UsageError(
                f"`{name}` must be {_range(rule)}. Received: {name}={value}"
            )
    return value


def require_defaults(
    settings: Settings, names: Collection[str], other: str
) -> None:
    """Raises UsageError unless settings that exclude another are defaults."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in names and value != field.default:
            raise UsageError(
                f"`{field.name}` cannot be combined with `{other}`. Received: "
                f"{field.name}={value} and {other}={getattr(settings, other)}. "
                "Leave one of them out."
            )


def require_one(settings: Settings, names: Sequence[str]) -> str:
    """Returns the only setting that is given, or raises UsageError."""
    given = [name for name in names if getattr(settings, name) is not None]
    if len(given) != 1:
        known = ", ".join(f"`{name}`" for name in names[:-1])
        received = [f"`{name}`={getattr(settings, name)}" for name in given]
        raise UsageError(
            f"Exactly one of {known} and `{names[-1]}` is required. Received: "
            f"{' and '.join(received) or 'none'}"
        )
    return given[0]


def require_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises UsageError unless a value is one of the choices."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UsageError(
            f"`{name}` must be one of {', '.join(choices)}. "
            f"Received: {name}={value!r}{hint and '.' + hint}"
        )


def _require_type(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    is_switch = isinstance(value, bool) and bool not in kinds
    if is_switch or not isinstance(value, kinds):
        raise UsageError(
            f"`{name}` must be of type {kinds[0].__name__}. Received: "
            f"{name}={value!r}"
        )


def _range(rule: Rule) -> str:
    if rule.most is None:
        start = "above" if rule.excludes_least else "at least"
        return f"{start} {rule.least:g}"
    start = "(" if rule.excludes_least else "["
    end = ")" if rule.excludes_most else "]"
    return f"in {start}{rule.least:g}, {rule.most:g}{end}"


def parse(settings: type, field: dataclasses.Field, text: str) -> Any:
    """Reads a field's value from the text of a flag.

    Raises:
        UsageError: If the text does not represent such a value.
    """
    kind, is_tuple = kind_of(settings, field)
    if is_tuple:
        parts = split(text)
        return tuple(_parsed(field.name, part, kind) for part in parts)
    return _parsed(field.name, text, kind)


def split(text: str) -> list[str]:
    """Splits values at commas, except within double quotes."""
    try:
        lines = csv.reader([text], skipinitialspace=True, strict=True)
        parts = next(lines, [])
    except csv.Error:
        # Its quotes or line breaks are part of the values.
        parts = text.split(",")
    return [part.strip() for part in parts if part.strip()]


def _parsed(name: str, text: str, kind: type) -> Any:
    known = {"true": True, "false": False, "1": True, "0": False}
    try:
        return known[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"`{name}` must be of type {kind.__name__}. Received: {name}={text}"
        ) from error


def text_of(value: Any) -> str:
    """Returns a value as the text of a flag."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(value)
        return line.getvalue()
    return str(value)


def to_texts(settings: Settings) -> dict[str, str]:
    """Returns the values of the flags as text, by name, without None."""
    return {
        flag_of(field): text_of(value)
        for field in dataclasses.fields(settings)
        if (value := getattr(settings, field.name)) is not None
    }


def read_flagfile(text: str) -> dict[str, str]:
    """Returns a flagfile's values as text, by name; the last one counts."""
    values = {}
    for line in text.splitlines():
        line = line.strip()
        if not line.startswith("-"):
            continue
        name, has_value, value = line.lstrip("-").partition("=")
        if has_value:
            values[name] = value
        elif name.startswith("no"):
            values[name.removeprefix("no")] = "false"
        else:
            values[name] = "true"
    return values


def from_texts(settings: type, values: Mapping[str, str]) -> Any:
    """Creates a settings object from the text of flags; ignores others."""
    return settings(
        **{
            field.name: parse(settings, field, values[flag_of(field)])
            for field in dataclasses.fields(settings)
            if flag_of(field) in values
        }
    )
