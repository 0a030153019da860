"""Flags of absl, made from the fields of settings."""

import dataclasses
import re
from collections.abc import Collection
from typing import Any

from absl import flags

from tf_instdisc.config.fields import flag_of, kind_of, rule_of, text_of
from tf_instdisc.errors import UsageError


class _TupleParser(flags.ListParser):
    """Parses values with commas between them."""

    def __init__(self, kind: type):
        super().__init__()
        self.kind = kind

    def parse(self, argument: Any) -> list[Any]:
        if isinstance(argument, tuple | list):
            return list(argument)
        parts = [part.strip() for part in argument.split(",")]
        return [self.kind(part) for part in parts if part]

    def flag_type(self) -> str:
        return "comma separated list"


@dataclasses.dataclass(frozen=True)
class FlagGroup:
    """Flags that make one settings object.

    Attributes:
        settings: Its class; the first line of its docstring is the title.
        names: The flags, by the fields' names.
    """

    settings: type
    names: dict[str, str]

    @property
    def title(self) -> str:
        """What `--help` shows above the flags."""
        return (self.settings.__doc__ or "").strip().partition("\n")[0]

    def read(self) -> Any:
        """The settings that the flags give.

        Raises:
            UsageError: If they are out of range; the message names flags.
        """
        values = {name: flags.FLAGS[f].value for name, f in self.names.items()}
        try:
            return self.settings(
                **{
                    name: tuple(value) if isinstance(value, list) else value
                    for name, value in values.items()
                }
            )
        except UsageError as error:
            named = re.sub(r"`(\w+)`", self._as_flag, str(error))
            raise type(error)(named) from error

    def _as_flag(self, match: re.Match) -> str:
        flag = self.names.get(match[1])
        return f"--{flag}" if flag else match[0]


def define(
    settings: type, prefix: str = "", without: Collection[str] = ()
) -> FlagGroup:
    """Defines a flag for each field of a settings class.

    Args:
        settings: A class whose fields are made by `config.fields.setting`.
        prefix: What the flags' names begin with, besides the fields'.
        without: Fields without a flag.

    Returns:
        The flags.
    """
    names = {}
    for field in dataclasses.fields(settings):
        if field.name not in without:
            name = prefix + flag_of(field)
            _define_flag(settings, field, name)
            names[field.name] = name
    return FlagGroup(settings, names)


def _define_flag(settings: type, field: dataclasses.Field, name: str) -> None:
    rule = rule_of(field)
    kind, is_tuple = kind_of(settings, field)
    default: Any = field.default
    if is_tuple:
        parser = _TupleParser(kind)
        flags.DEFINE(
            parser,
            name,
            None if default is None else list(default),
            rule.help,
            serializer=flags.CsvListSerializer(","),
        )
    elif kind is bool:
        flags.DEFINE_bool(name, default, rule.help)
    elif rule.choices:
        flags.DEFINE_enum(name, default, rule.choices, rule.help)
    elif kind is int:
        flags.DEFINE_integer(name, default, rule.help)
    elif kind is float:
        flags.DEFINE_float(name, default, rule.help)
    else:
        flags.DEFINE_string(name, default, rule.help)


def show(group: FlagGroup) -> list[str]:
    """Lines of `--help` for a group."""
    lines = [f"{group.title}:"]
    for field in dataclasses.fields(group.settings):
        if field.name not in group.names:
            continue
        rule, flag = rule_of(field), group.names[field.name]
        kind, _ = kind_of(group.settings, field)
        switch = "[no]" if kind is bool else ""
        known = f"<{'|'.join(rule.choices)}> " if rule.choices else ""
        text = f"--{switch}{flag}: {known}{rule.help}"
        lines.append(flags.text_wrap(text, 80, "    ", "  "))
        if field.default is not None:
            lines.append(f"    (default: {text_of(field.default)})")
    return lines
