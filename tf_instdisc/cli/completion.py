"""Prints a script that completes commands, flags, choices, recipes and files.

Load it when the shell starts:

  eval "$(instdisc completion bash)"      # in ~/.bashrc
  eval "$(instdisc completion zsh)"       # in ~/.zshrc, below compinit
  instdisc completion fish | source       # in ~/.config/fish/config.fish

The script calls the command again, with --line, when Tab is pressed.
"""

import dataclasses
import importlib
import os
import re
from collections.abc import Iterator

from tf_instdisc.cli.instdisc import COMMANDS, WITHOUT_PROGRAM
from tf_instdisc.config.fields import (
    Settings,
    flag_of,
    is_setting,
    kind_of,
    require_choice,
    rule_of,
    setting,
)

# Each asks for whole words, such as --flag=value, and completes files if there
# is none. Bash replaces only what follows "=", unless COMP_WORDBREAKS is
# without it. Fish evaluates the condition for files and the words separately.
_SCRIPTS = {
    "bash": """\
_instdisc() {
  local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT}
  COMPREPLY=($(instdisc completion bash --line="$line" 2>/dev/null))
  line=${line##*[[:space:]]}
  COMPREPLY=("${COMPREPLY[@]#"${line%"$2"}"}")
  [[ $COMPREPLY == *= ]] && compopt -o nospace 2>/dev/null
}
complete -o default -F _instdisc @programs@
""",
    "zsh": """\
#compdef @programs@
_instdisc() {
  local line="$words[1,CURRENT-1] $PREFIX"
  local found=("${(@f)$(instdisc completion zsh --line="$line" 2>/dev/null)}")
  local open=(${(M)found:#*=:*}) whole=(${found:#*=:*})
  _describe choice open -S '' -- whole || { compset -P '*='; _files }
}
if [[ $funcstack[1] == _instdisc ]]; then _instdisc
else compdef _instdisc @programs@; fi
""",
    "fish": """\
function __instdisc
  set -l line (commandline -cp | string collect)
  if test "$line" != "$__instdisc_line"
    set -g __instdisc_line $line
    set -g __instdisc_found (instdisc completion fish --line=$line 2>/dev/null)
  end
  printf '%s\\n' $__instdisc_found
end
for program in @programs@
  complete -c $program -f -a '(__instdisc)'
  complete -c $program -n 'not __instdisc | string length -q' -F
end
""",
}


@dataclasses.dataclass(frozen=True)
class CompletionOptions(Settings):
    """Completion"""

    line: str | None = setting(
        None,
        "Print the words that may continue this line, instead of a script. "
        "The line ends at the cursor.",
    )


SETTINGS = [CompletionOptions]
NUM_ARGUMENTS = 1
NEEDS_TENSORFLOW = False


def main(options: CompletionOptions, shell: str) -> None:
    """Prints the script, or the words that may follow."""
    require_choice("SHELL", shell, tuple(_SCRIPTS))
    if options.line is None:
        names = [n for n in COMMANDS if n not in WITHOUT_PROGRAM]
        programs = " ".join(["instdisc", *(f"instdisc-{n}" for n in names)])
        print(_SCRIPTS[shell].replace("@programs@", programs), end="")
        return
    mark = {"bash": None, "zsh": ":", "fish": "\t"}[shell]
    *before, word = re.split(r"\s+", options.line.lstrip())
    for found, text in _found(before, word):
        if found.startswith(word):
            print(found if mark is None else f"{found}{mark}{text}")


def _found(before: list[str], word: str) -> Iterator[tuple[str, str]]:
    """Yields the words that may replace one, with their descriptions."""
    program, *before = before or [""]
    command = os.path.basename(program).removeprefix("instdisc").lstrip("-")
    if not command:
        if before in ([], ["help"]):
            yield from COMMANDS.items()
        if not before:
            yield "help", "List the commands"
            yield "--help", "List the commands"
            yield "--version", "Print the version"
            return
        command, *before = before
    if command not in COMMANDS:
        return
    module = importlib.import_module(f"tf_instdisc.cli.{command}")
    # A flag that several settings share counts once.
    flags = {
        flag_of(field): (kind, field)
        for settings in module.SETTINGS
        for kind, field in _fields(settings)
    }
    flag, has_value, value = word.partition("=")
    prefix = flag + has_value
    if not has_value and before and "=" not in before[-1]:
        flag, prefix, value = before[-1], "", word
    if flag[:2] == "--" and flag[2:] in flags:
        kind, field = flags[flag[2:]]
        rule, (member, is_tuple) = rule_of(field), kind_of(kind, field)
        if has_value or member is not bool:
            if is_tuple and not rule.is_repeatable:
                prefix += "".join(value.rpartition(",")[:2])
            yield from ((prefix + choice, "") for choice in rule.choices)
            return
    if command == "completion" and not before:
        yield from ((shell, "") for shell in _SCRIPTS)
    elif not word and hasattr(module, "NUM_ARGUMENTS"):
        return
    for name, (kind, field) in flags.items():
        text = re.split(r"[.;:](?: |$)", rule_of(field).help)[0]
        if kind_of(kind, field)[0] is bool:
            yield f"--{name}", text
            yield f"--no{name}", f"Not: {text}"
        else:
            yield f"--{name}=", text
    yield "--flagfile=", "File of flags"
    yield "--help", "List the flags"


def _fields(settings: type) -> Iterator[tuple[type, dataclasses.Field]]:
    """Yields the fields that have a flag, and the classes that define them."""
    for field in dataclasses.fields(settings):
        if not is_setting(field):
            yield from _fields(kind_of(settings, field)[0])
        else:
            yield settings, field
