"""Starts a command: grouped `--help`, environment, clean errors."""

import math
import os
import sys
import types
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from tf_instdisc.errors import RunError, StorageError
from tf_instdisc.text import shown_message


def launch(
    main: Callable[..., None],
    summary: str,
    groups: Sequence[types.ModuleType],
    num_arguments: int = 0,
) -> None:
    """Parses the flags and runs a command; does not return.

    Args:
        main: The command; it reads the flags itself. A ValueError or
            FileNotFoundError from it is a mistake of the user's and ends the
            command with its message and exit status 2; a RunError with
            its own status.
        summary: What `--help` says first.
        groups: Modules of `flag_groups`; `--help` lists their flags under
            the first line of their docstrings.
        num_arguments: Arguments besides flags, which `main` is given.
    """
    if {"--help", "-help", "--helpfull", "-h"} & set(sys.argv[1:]):
        print(_help(summary, groups))
        sys.exit(0)
    # The encoder is three times as fast with oneDNN; TensorFlow turns it on
    # by itself only for processors with AVX-512.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    def run(arguments):
        if not flags.FLAGS["verbosity"].present:
            # TFDS tells of every file that it opens.
            logging.set_verbosity(logging.ERROR)
        arguments = arguments[1:]
        if len(arguments) != num_arguments:
            wanted = f"{num_arguments or 'no'} arguments besides flags"
            raise app.UsageError(
                f"The command takes {wanted}. Received: {' '.join(arguments)}"
            )
        try:
            main(*arguments)
        except (ValueError, FileNotFoundError) as error:
            _end(error, 2)
        except OSError as error:
            _end(error, StorageError.exit_status)
        except RunError as error:
            _end(error, error.exit_status)

    _refuse_nan(groups)
    app.run(run)


def _refuse_nan(groups: Sequence[types.ModuleType]) -> None:
    """NaN passes absl's bounds, as it is neither below nor above them."""
    ours = flags.FLAGS.flags_by_module_dict()
    for group in groups:
        for flag in ours.get(group.__name__, ()):
            if isinstance(flag.parser, flags.FloatParser):
                flags.register_validator(
                    flag.name,
                    lambda value: value is None or math.isfinite(value),
                    "must be a finite number",
                )


def _end(error: Exception, status: int) -> None:
    # Parts that come from files or servers have been escaped where they were
    # put in; whatever has not is at least kept from the terminal here.
    message = shown_message(f"error: {error}")
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)


def _help(summary: str, groups: Sequence[types.ModuleType]) -> str:
    parts = [summary.strip(), "", "Flags may stand in a file: --flagfile=PATH"]
    for group in groups:
        title = (group.__doc__ or group.__name__).strip().splitlines()[0]
        # Without the module's name, absl's first line.
        _, _, listing = flags.FLAGS.module_help(group).strip().partition("\n")
        parts += ["", f"{title}:", listing.strip("\n")]
    return "\n".join(parts)
