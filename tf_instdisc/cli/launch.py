"""Starts a command: grouped `--help`, environment and exit statuses."""

import os
import sys
from collections.abc import Iterable, Sequence
from logging import CRITICAL, getLogger
from typing import Any

from absl import app, flags, logging

from tf_instdisc.cli import (
    failures,
    interrupt,
    quiet_start,
    setting_flags,
)
from tf_instdisc.cli.setting_flags import FlagGroup
from tf_instdisc.config import recipes
from tf_instdisc.errors import UsageError, require_tensorflow_backend
from tf_instdisc.text import did_you_mean

_HELP = {"--help", "-help", "--helpfull", "--helpshort", "-h", "-?"}


def launch(command: Any) -> None:
    """Parses the flags and runs a command; does not return.

    Args:
        command: A module whose docstring is the beginning of `--help`. Its
            attributes are:

            - `SETTINGS`: Classes of settings, whose fields become flags.
              `--help` lists them under the first lines of their docstrings.
            - `main`: A function that is called with a settings object for
              each of these classes, followed by the arguments. An expected
              failure ends the command with one sentence and its own exit
              status; any other exception shows its traceback, with status 1.
            - `NUM_ARGUMENTS`, optional: Number of arguments besides flags;
              by default, 0.
            - `UNREAD`, optional: Classes for which `main` receives the
              `FlagGroup` and reads only those that it needs. Each flag is
              checked separately.
            - `NEEDS_TENSORFLOW`, optional: False if the command does not
              start TensorFlow.
    """
    groups = setting_flags.define(command.SETTINGS)
    num_arguments = getattr(command, "NUM_ARGUMENTS", 0)
    unread = getattr(command, "UNREAD", ())
    if _HELP & set(sys.argv[1:]):
        failures.exit_quietly_if_output_closes()
        print(_help(command.__doc__ or "", groups.values()))
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
        given = [
            groups[kind] if kind in unread else groups[kind].read()
            for kind in command.SETTINGS
        ]
        for kind in unread:
            groups[kind].check()
        if getattr(command, "NEEDS_TENSORFLOW", True):
            # Keras takes seconds to import. A backend that its configuration
            # file names is reported when it is used.
            backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
            require_tensorflow_backend(backend)
            quiet_start.start_tensorflow()
        command.main(*given, *arguments)

    def run_until_failure(arguments: Sequence[str]) -> None:
        try:
            run(arguments)
        except Exception as error:
            end = failures.describe(error, _named_data())
            if end is None:
                raise
            failures.end(*end)

    with interrupt.ending_the_command():
        app.run(
            run_until_failure,
            flags_parser=lambda argv: _parse(argv, groups.values()),
        )


def _parse(argv: Sequence[str], groups: Iterable[FlagGroup]) -> list[str]:
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
            f"{hint or ' --help lists all flags.'}",
            2,
        )
    except flags.Error as error:
        text = str(error).removeprefix("ERROR:: ")
        failures.end(" ".join(text.splitlines()), 2)
    except UsageError as error:
        failures.end(str(error).replace("`recipe`", "--recipe"), 2)
    except (OSError, UnicodeDecodeError) as error:
        failures.end(f"A --flagfile cannot be read: {error}", 2)


def _named_data() -> str:
    """Returns the given flags that name images."""
    names = ("run_dir", "dataset", "images", "test_images")
    return ", ".join(
        f"--{name}={flags.FLAGS[name].value}"
        for name in names
        if name in flags.FLAGS and flags.FLAGS[name].value
    )


def _help(summary: str, groups: Iterable[FlagGroup]) -> str:
    parts = [
        summary.strip(),
        "",
        "Flags can be read from a file: --flagfile=PATH",
    ]
    for group in groups:
        parts += ["", *setting_flags.help_lines(group)]
    return "\n".join(parts)
