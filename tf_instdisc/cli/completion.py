"""instdisc completion: completes commands and flags in a shell."""

import dataclasses
import importlib
import re
from collections.abc import Iterator

from tf_instdisc.cli import completion_scripts
from tf_instdisc.cli.completion_scripts import Flag
from tf_instdisc.cli.instdisc import COMMANDS
from tf_instdisc.cli.launch import launch
from tf_instdisc.config.fields import (
    flag_of,
    is_setting,
    kind_of,
    require_choice,
    rule_of,
)

_SUMMARY = """
Prints a script that completes commands, flags, choices, recipes and files.
Load it when the shell starts:

  eval "$(instdisc completion bash)"      # in ~/.bashrc
  eval "$(instdisc completion zsh)"       # in ~/.zshrc, below compinit
  instdisc completion fish | source       # in ~/.config/fish/config.fish
"""
SETTINGS: list[type] = []


def main() -> None:
    """Entry point of `instdisc completion`."""
    launch(
        _completion,
        _SUMMARY,
        SETTINGS,
        num_arguments=1,
        needs_tensorflow=False,
    )


def _completion(shell: str) -> None:
    require_choice("SHELL", shell, completion_scripts.SHELLS)
    flags = {command: flags_of(command) for command in COMMANDS}
    print(getattr(completion_scripts, shell)(COMMANDS, flags), end="")


def flags_of(command: str) -> list[Flag]:
    """Returns the flags of a command in the order of its `--help`."""
    module = importlib.import_module(f"tf_instdisc.cli.{command}")
    found = [
        flag
        for settings in module.SETTINGS
        for flag in _flags_of_settings(settings)
    ]
    found += [
        Flag("flagfile", "File of flags", takes="file"),
        Flag("help", "List the flags"),
    ]
    # A flag that several settings share is listed once.
    return list({flag.name: flag for flag in found}.values())


def _flags_of_settings(settings: type) -> Iterator[Flag]:
    for field in dataclasses.fields(settings):
        kind, is_tuple = kind_of(settings, field)
        if not is_setting(field):
            yield from _flags_of_settings(kind)
            continue
        rule, name = rule_of(field), flag_of(field)
        help = re.split(r"[.;:](?: |$)", rule.help)[0]
        if kind is bool:
            yield Flag(name, help)
            yield Flag(f"no{name}", f"Not: {help}")
            continue
        takes = "number" if kind in (int, float) else "file"
        if rule.choices:
            is_list = is_tuple and not rule.is_repeatable
            takes = "several" if is_list else "one"
        yield Flag(name, help, rule.choices, takes, rule.is_repeatable)


if __name__ == "__main__":
    main()
