"""Scripts that complete commands in bash, zsh and fish."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from tf_instdisc.cli.instdisc import WITHOUT_PROGRAM

SHELLS = ("bash", "zsh", "fish")


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag as a shell completes it.

    Attributes:
        name: The name without dashes. A switch has another `Flag` whose name
            starts with `no`.
        help: A short description.
        values: The choices; empty if any value is accepted.
        takes: `"nothing"`, for a switch; `"one"` of the choices, or
            `"several"`, separated by commas; `"file"`, for a path or text; or
            `"number"`.
        is_repeatable: Whether the flag may be given more than once.
    """

    name: str
    help: str
    values: tuple[str, ...] = ()
    takes: str = "nothing"
    is_repeatable: bool = False


Commands = Mapping[str, str]
Flags = Mapping[str, Sequence[Flag]]
"""The summaries of commands, and the flags of each command."""

_BASH = r"""# Completion of instdisc for bash.
_instdisc() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
  local command=${COMP_WORDS[0]##*/} flag= kept= words= values= several=
  COMPREPLY=()
  if [[ $command == instdisc ]]; then
    if ((COMP_CWORD == 1)); then
      COMPREPLY=($(compgen -W "@names@ help --help --version" -- "$current"))
      return
    fi
    command=${COMP_WORDS[1]}
  fi
  # Bash splits --flag=value at "=", unless COMP_WORDBREAKS is without it.
  if [[ $current == = ]]; then
    flag=$previous current=
  elif [[ $previous == = ]]; then
    flag=${COMP_WORDS[COMP_CWORD-2]}
  elif [[ $current == --*=* ]]; then
    flag=${current%%=*} kept=$flag= current=${current#*=}
  elif [[ $previous == --* && $previous != *=* ]]; then
    flag=$previous
  fi
  case ${command#instdisc-} in
@cases@
  esac
  if [[ $flag ]]; then
    [[ $values ]] || return
    if [[ $several && $current == *,* ]]; then
      kept+=${current%,*}, current=${current##*,}
    fi
    words=$values
  elif [[ ! $current && ${command#instdisc-} == diff ]]; then
    return
  fi
  COMPREPLY=($(compgen -P "$kept" -W "$words" -- "$current"))
  if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
    compopt -o nospace 2>/dev/null
  fi
}
complete -o default -F _instdisc @programs@
"""

_ZSH = r"""#compdef @programs@
# Completion of instdisc for zsh.
_instdisc() {
  local command=${words[1]:t}
  local -a commands
  commands=(
@commands@
  )
  if [[ $command == instdisc ]]; then
    if ((CURRENT == 2)); then
      _describe command commands
      return
    fi
    shift words
    ((CURRENT--))
    command=$words[1]
  fi
  case ${command#instdisc-} in
@cases@
  help) _describe command commands ;;
  esac
}
if [[ $funcstack[1] == _instdisc ]]; then
  _instdisc "$@"
else
  compdef _instdisc @programs@
fi
"""

_FISH = r"""# Completion of instdisc for fish.
function __instdisc_at
  set -l words (commandline -opc)
  if test (count $argv) -eq 0
    test (count $words) -eq 1
  else
    test (count $words) -gt 1; and contains -- $words[2] $argv
  end
end
"""


def bash(commands: Commands, flags: Flags) -> str:
    """Returns a script for bash, with one function for all programs."""
    cases = []
    for command in commands:
        words = [
            f"--{f.name}{'' if f.takes == 'nothing' else '='}"
            for f in flags[command]
        ]
        lines = [
            f"  {command})",
            f'    words="{" ".join([*_arguments(command), *words])}"',
            "    case $flag in",
        ]
        for takes, action in (
            ("nothing", "flag="),
            ("number", "compopt +o default 2>/dev/null"),
        ):
            names = [f"--{f.name}" for f in flags[command] if f.takes == takes]
            if names:
                lines.append(f"    {'|'.join(names)}) {action} ;;")
        for f in flags[command]:
            if f.values:
                several = " several=1" if f.takes == "several" else ""
                known = " ".join(f.values)
                lines.append(f'    --{f.name}) values="{known}"{several} ;;')
        cases += [*lines, "    esac ;;"]
    cases.append(f'  help) words="{" ".join(commands)}" ;;')
    return _filled(_BASH, commands, cases="\n".join(cases))


def zsh(commands: Commands, flags: Flags) -> str:
    """Returns a script for zsh, to be evaluated or put into `fpath`."""
    cases = []
    for command in commands:
        specs = [_zsh_spec(flag) for flag in flags[command]]
        known = _arguments(command)
        action = f"({' '.join(known)})" if known else "_files"
        specs.append(_quoted(f"*:argument:{action}"))
        lines = " \\\n      ".join(specs)
        cases.append(f"  {command}) _arguments -S \\\n      {lines} ;;")
    described = [
        f"    {_quoted(f'{name}:{text}')}" for name, text in commands.items()
    ]
    return _filled(
        _ZSH, commands, cases="\n".join(cases), commands="\n".join(described)
    )


def _zsh_spec(flag: Flag) -> str:
    text = flag.help.replace("\\", "\\\\")
    text = text.replace("[", "\\[").replace("]", "\\]")
    known = " ".join(flag.values)
    action = {
        "nothing": "",
        "number": ": :",
        "file": ": :_files",
        "one": f": :({known})",
        "several": f": :_values -s , choice {known}",
    }[flag.takes]
    sign = "" if flag.takes == "nothing" else "="
    star = "*" if flag.is_repeatable else ""
    return _quoted(f"{star}--{flag.name}{sign}[{text}]{action}")


def fish(commands: Commands, flags: Flags) -> str:
    """Returns a script for fish; `instdisc-train` wraps `instdisc train`."""
    lines = [_FISH.rstrip()]
    for command, text in commands.items():
        lines.append(
            f"complete -c instdisc -n __instdisc_at -f -a {command} "
            f"-d {_fish_quoted(text)}"
        )
    for command in commands:
        condition = f"complete -c instdisc -n '__instdisc_at {command}'"
        if arguments := _arguments(command):
            lines.append(f"{condition} -f -a '{' '.join(arguments)}'")
        for flag in flags[command]:
            known = " ".join(flag.values)
            action = {
                "nothing": "",
                "number": "-x ",
                "file": "-r -F ",
                "one": f"-x -a '{known}' ",
                "several": "-x -a '(__fish_complete_list , "
                f'"printf %s\\\\n {known}")\' ',
            }[flag.takes]
            lines.append(
                f"{condition} -l {flag.name} {action}"
                f"-d {_fish_quoted(flag.help)}"
            )
    lines += [
        "complete -c instdisc -n __instdisc_at -f -a help -l version",
        "complete -c instdisc -n '__instdisc_at help' -f "
        f"-a '{' '.join(commands)}'",
    ]
    lines += [
        f"complete -c {program} -w 'instdisc {program.partition('-')[2]}'"
        for program in _programs(commands)[1:]
    ]
    return "\n".join(lines) + "\n"


def _arguments(command: str) -> tuple[str, ...]:
    """Returns the positional arguments of a command, if they are known."""
    return SHELLS if command == "completion" else ()


def _programs(commands: Iterable[str]) -> list[str]:
    own = [command for command in commands if command not in WITHOUT_PROGRAM]
    return ["instdisc", *(f"instdisc-{command}" for command in own)]


def _filled(script: str, names: Commands, **parts: str) -> str:
    parts["names"] = " ".join(names)
    parts["programs"] = " ".join(_programs(names))
    for name, text in parts.items():
        script = script.replace(f"@{name}@", text)
    return script


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
