"""Flags that hold paths."""

from typing import overload

from absl import flags

from tf_instdisc.paths import local_path

# A flag belongs to the module that calls the functions below.
flags.disclaim_key_flags()


class PathParser(flags.ArgumentParser):
    """Parses a path with `local_path`.

    Attributes:
        name: The flag's name, for messages.
    """

    def __init__(self, name: str):
        self.name = name

    def parse(self, argument: str) -> str:
        return local_path(argument, self.name)

    def flag_type(self) -> str:
        return "path"


class PathListParser(flags.ListParser):
    """Parses paths with commas between them.

    Attributes:
        name: The flag's name, for messages.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def parse(self, argument: str | list[str]) -> list[str]:
        return [local_path(path, self.name) for path in super().parse(argument)]

    def flag_type(self) -> str:
        return "comma separated list of paths"


@overload
def define_path(
    name: str, default: str, help: str
) -> flags.FlagHolder[str]: ...


@overload
def define_path(
    name: str, default: None, help: str
) -> flags.FlagHolder[str | None]: ...


def define_path(name, default, help):
    """Defines a flag that holds one path."""
    return flags.DEFINE(
        PathParser(name),
        name,
        default,
        help,
        serializer=flags.ArgumentSerializer(),
    )


def define_paths(
    name: str, default: list[str], help: str
) -> flags.FlagHolder[list[str]]:
    """Defines a flag that holds a list of paths."""
    return flags.DEFINE(
        PathListParser(name),
        name,
        default,
        help,
        serializer=flags.CsvListSerializer(","),
    )
