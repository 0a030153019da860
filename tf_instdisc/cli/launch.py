"""Starts a command: grouped `--help`, environment and exit statuses."""

import os
import sys
from collections.abc import Callable, Sequence
from logging import CRITICAL, getLogger

from absl import app, flags, logging

from tf_instdisc.cli import (
    failures,
    interrupt,
    quiet_start,
    setting_flags,
)
from tf_instdisc.cli.setting_flags import FlagGroup
from tf_instdisc.config import recipes
from tf_instdisc.config.fields import split
from tf_instdisc.errors import UsageError
from tf_instdisc.text import did_you_mean

_HELP = {"--help", "-help", "--helpfull", "--helpshort", "-h", "-?"}


def launch(
    main: Callable[..., None],
    summary: str,
    groups: Sequence[type | FlagGroup],
    num_arguments: int = 0,
    unread: Sequence[FlagGroup] = (),
    needs_tensorflow: bool = True,
) -> None:
    """Parses the flags and runs a command; does not return.

    Args:
        main: The command. It is called with a settings object for each class
            in `groups`, followed by the arguments. An expected failure ends
            the command with one sentence and its own exit status; any other
            exception shows its traceback, with status 1.
        summary: The beginning of `--help`.
        groups: Classes of settings, whose fields become flags, or flags that
            were defined by `setting_flags.define`. `--help` lists them under
            the first lines of their docstrings.
        num_arguments: Number of positional arguments, which `main` receives.
        unread: Flags that `--help` lists after the others. Each flag is
            checked separately, and `main` reads the groups that it needs.
        needs_tensorflow: Whether the command starts TensorFlow.
    """
    read = [
        setting_flags.define(group) if isinstance(group, type) else group
        for group in groups
    ]
    if _HELP & set(sys.argv[1:]):
        failures.exit_quietly_if_output_closes()
        print(_help(summary, [*read, *unread]))
        sys.exit(0)
    # The encoder is three times as fast with oneDNN, which TensorFlow enables
    # by default only for processors with AVX-512.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

    def run(arguments: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            # TFDS logs every file that it opens.
            logging.set_verbosity(logging.ERROR)
            # It also logs, with a traceback, the errors that it raises.
            getLogger("gcsfs").setLevel(CRITICAL)
        if len(arguments) != num_arguments:
            raise UsageError(
                f"The command takes {num_arguments or 'no'} "
                f"argument{'s' * (num_arguments != 1)} besides "
                f"flags. Received: {' '.join(arguments) or 'none'}"
            )
        if sys.getfilesystemencoding() != "utf-8":
            raise UsageError(
                "Python must use UTF-8 for the names of files. Received: "
                f"{sys.getfilesystemencoding()}. Set PYTHONUTF8=1, or a locale "
                "such as C.UTF-8."
            )
        settings = [group.read() for group in read]
        for group in unread:
            group.check()
        if needs_tensorflow:
            quiet_start.start_tensorflow()
        main(*settings, *arguments)

    def run_until_failure(arguments: Sequence[str]) -> None:
        try:
            run(arguments)
        except Exception as error:
            end = failures.describe(error, _named_paths(arguments))
            if end is None:
                raise
            failures.end(*end)

    with interrupt.ending_the_command():
        app.run(
            run_until_failure,
            flags_parser=lambda a: _parse(a, [*read, *unread]),
        )


def _parse(argv: Sequence[str], groups: Sequence[FlagGroup]) -> list[str]:
    """Returns the positional arguments; ends the command at a wrong flag."""
    try:
        rest = flags.FLAGS(argv)
        recipe = flags.FLAGS["recipe"].value if "recipe" in flags.FLAGS else ""
        if recipe:
            # The recipe comes first, so that the other flags override it.
            given = f"--flagfile={recipes.path_of(recipe)}"
            flags.FLAGS.unparse_flags()
            rest = flags.FLAGS([argv[0], given, *argv[1:]])
        return rest[1:]
    except flags.UnrecognizedFlagError as error:
        known = [name for name in flags.FLAGS if not name.startswith("no")]
        ours = [name for g in groups for name in g.names.values()]
        name = error.flagname.removeprefix("no")
        hint = did_you_mean(name, ours or known, prefix="--")
        failures.end(
            f"The flag --{error.flagname} is unknown."
            f"{hint or ' --help lists all.'}",
            2,
        )
    except flags.Error as error:
        text = str(error).removeprefix("ERROR:: ")
        failures.end(" ".join(text.splitlines()), 2)
    except UsageError as error:
        failures.end(str(error).replace("`recipe`", "--recipe"), 2)
    except (OSError, UnicodeDecodeError) as error:
        failures.end(f"A --flagfile cannot be read: {error}", 2)


def _named_paths(arguments: Sequence[str]) -> list[str]:
    """Returns all given values that may be paths."""
    found = list(arguments)
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if flag.present:
            values = (
                flag.value if isinstance(flag.value, list) else [flag.value]
            )
            texts = [value for value in values if isinstance(value, str)]
            # A flag may hold several paths.
            found += [part for text in texts for part in (text, *split(text))]
    return found


def _help(summary: str, groups: Sequence[FlagGroup]) -> str:
    parts = [
        summary.strip(),
        "",
        "Flags can be read from a file: --flagfile=PATH",
    ]
    for group in groups:
        parts += ["", *setting_flags.help_lines(group)]
    return "\n".join(parts)
