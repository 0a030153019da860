"""instdisc: all commands under one name."""

import importlib
import importlib.metadata
import sys

from tf_instdisc.cli.failures import end, end_with_reader
from tf_instdisc.text import did_you_mean

COMMANDS = {
    "recipes": "List the recipes, with the time and the score to expect.",
    "plan": "Print what a run will need, without running anything.",
    "train": "Train an encoder and fill a run directory.",
    "convert": "Make a run directory of a checkpoint of PyTorch.",
    "evaluate": "Measure a run as the paper does.",
    "neighbors": "Show the training images nearest to others.",
    "report": "Write one page that shows what a run has learned.",
    "duplicates": "Find near-duplicate images.",
    "update": "Bring a run's bank up to a folder that has changed.",
    "diff": "Compare two runs over the same images.",
    "embed": "Embed a folder of images into a file.",
    "export": "Write the next version of a served model.",
    "reproduce": "Make the paper's tables again.",
    "completion": "Print a script that completes commands in a shell.",
}
"""What each command does, in the order of use; `cli/NAME.py` has its `main`."""

PARTS = ("recipes", "completion")
"""Commands that are not installed as programs of their own."""

_INTRODUCTION = """\
Instance discrimination for TensorFlow and Keras: `instdisc COMMAND --help`
lists the flags of a command, and `instdisc --version` prints the version.
"""


def main() -> None:
    """Entry point of `instdisc`."""
    command, *arguments = sys.argv[1:] or ["help"]
    if command == "help" and arguments:
        command, arguments = arguments[0], ["--help"]
    if command in ("help", "--help", "-h", "-help", "-?"):
        end_with_reader()
        print(_INTRODUCTION)
        for name, summary in COMMANDS.items():
            print(f"  {name:10}  {summary}")
    elif command in ("version", "--version"):
        print(f"instdisc {importlib.metadata.version('tf_instdisc')}")
    elif command in COMMANDS:
        sys.argv = [f"instdisc-{command}", *arguments]
        importlib.import_module(f"tf_instdisc.cli.{command}").main()
    else:
        hint = did_you_mean(command, COMMANDS) or " `instdisc` lists all."
        end(f"The command {command} is unknown.{hint}", 2)


if __name__ == "__main__":
    main()
