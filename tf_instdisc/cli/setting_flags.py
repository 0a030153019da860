"""Defines absl flags for the fields of settings."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags

from tf_instdisc.config.fields import (
    checked,
    flag_of,
    is_setting,
    kind_of,
    parse,
    rule_of,
    text_of,
)
from tf_instdisc.errors import UsageError


@dataclasses.dataclass(frozen=True)
class FlagGroup:
    """The flags of one settings class.

    Attributes:
        settings: The class; the first line of its docstring is the title.
        names: Names of the flags by the names of the fields.
        shared: Fields whose flags another group defines and shows in
            `--help`.
        parts: Groups of fields that hold settings themselves, by the names of
            the fields.
    """

    settings: type
    names: dict[str, str]
    shared: frozenset[str] = frozenset()
    parts: dict[str, "FlagGroup"] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """The heading of the flags in `--help`."""
        return (self.settings.__doc__ or "").strip().partition("\n")[0]

    def read(self) -> Any:
        """Returns the settings that the flags give.

        Raises:
            UsageError: If they are out of range. The message names the flags.
        """
        parts = {name: part.read() for name, part in self.parts.items()}
        try:
            return self.settings(**self._values(), **parts)
        except UsageError as error:
            raise self._with_flags(error) from error

    def check(self) -> None:
        """Checks each flag that has a value, independently of the others.

        Raises:
            UsageError: If one is out of range. The message names the flag.
        """
        fields = {f.name: f for f in dataclasses.fields(self.settings)}
        try:
            for name, value in self._values().items():
                if value is not None:
                    checked(self.settings, fields[name], value)
        except UsageError as error:
            raise self._with_flags(error) from error

    def _values(self) -> dict[str, Any]:
        fields = {f.name: f for f in dataclasses.fields(self.settings)}
        values = {}
        for name, flag in self.names.items():
            value = flags.FLAGS[flag].value
            if isinstance(value, str):
                value = parse(self.settings, fields[name], value)
            values[name] = tuple(value) if isinstance(value, list) else value
        return values

    def _with_flags(self, error: UsageError) -> UsageError:
        names = re.compile(r"`(\w+)`|(?<=Received: )(\w+)(?==)")
        return type(error)(names.sub(self._as_flag, str(error)))

    def _as_flag(self, match: re.Match) -> str:
        quoted, received = match.groups()
        flag = self.names.get(quoted or received)
        if not flag:
            return match[0]
        return f"--{flag}" if quoted else flag


def define(kinds: Iterable[type]) -> dict[type, FlagGroup]:
    """Defines the flags of settings classes, which may share flags.

    A flag that several classes share is defined, and shown, with the first of
    them. If a field holds settings itself, their class is defined first.

    Args:
        kinds: Classes whose fields are made by `config.fields.setting`, or
            hold objects of such classes.

    Raises:
        ValueError: If classes share a flag but not its default.
    """
    groups: dict[type, FlagGroup] = {}
    for kind in kinds:
        _define_group(groups, kind)
    return groups


def _define_group(groups: dict[type, FlagGroup], kind: type) -> FlagGroup:
    if kind in groups:
        return groups[kind]
    fields = dataclasses.fields(kind)
    parts = {
        field.name: _define_group(groups, kind_of(kind, field)[0])
        for field in fields
        if not is_setting(field)
    }
    known = {flag for group in groups.values() for flag in group.names.values()}
    names = {
        field.name: flag_of(field) for field in fields if is_setting(field)
    }
    for field in fields:
        if field.name not in names:
            continue
        flag = names[field.name]
        if flag not in known:
            _define_flag(kind, field, flag)
        elif flags.FLAGS[flag].default != _default(field):
            raise ValueError(
                f"Settings that share a flag must share its default. Received: "
                f"--{flag}={flags.FLAGS[flag].default}, and {field.default} in "
                f"{kind.__name__}"
            )
    shared = frozenset(name for name, flag in names.items() if flag in known)
    groups[kind] = FlagGroup(kind, names, shared, parts)
    return groups[kind]


def _default(field: dataclasses.Field) -> Any:
    """Returns the default in the form of the flag."""
    default: Any = field.default
    if rule_of(field).is_repeatable:
        return None if default is None else list(default)
    return default if isinstance(default, bool | None) else text_of(default)


def _define_flag(settings: type, field: dataclasses.Field, name: str) -> None:
    define: Callable[..., Any] = flags.DEFINE_string
    if rule_of(field).is_repeatable:
        define = flags.DEFINE_multi_string
    elif kind_of(settings, field)[0] is bool:
        define = flags.DEFINE_bool
    define(name, _default(field), rule_of(field).help)


def help_lines(group: FlagGroup) -> list[str]:
    """Returns the lines of `--help` for a group."""
    lines = [f"{group.title}:"]
    for field in dataclasses.fields(group.settings):
        if field.name not in group.names or field.name in group.shared:
            continue
        rule, flag = rule_of(field), group.names[field.name]
        kind, _ = kind_of(group.settings, field)
        switch = "[no]" if kind is bool else ""
        known = f"<{'|'.join(rule.choices)}> " if rule.choices else ""
        text = f"--{switch}{flag}: {known}{rule.help}"
        lines.append(flags.text_wrap(text, 80, "    ", "  "))
        if field.default not in (None, ()):
            lines.append(f"    (default: {text_of(field.default)})")
    return lines
