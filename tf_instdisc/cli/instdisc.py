"""instdisc: runs any of the commands."""

import importlib
import os
import sys

from tf_instdisc.cli.failures import end, exit_quietly_if_output_closes
from tf_instdisc.text import did_you_mean

COMMANDS = {
    "recipes": "List the recipes, with the expected time and score.",
    "plan": "Estimate the resources of a run without starting it.",
    "train": "Train an encoder and fill a run directory.",
    "convert": "Convert a PyTorch checkpoint to a run directory.",
    "evaluate": "Evaluate a run with the protocols of the paper.",
    "neighbors": "Show the nearest training images of other images.",
    "browse": "Browse images, neighbors, duplicates and a map on a local page.",
    "report": "Write a page that shows what a run has learned.",
    "duplicates": "Find near-duplicate images.",
    "update": "Update a run's bank after its folder has changed.",
    "diff": "Compare two runs over the same images.",
    "embed": "Embed images into a file, or into many by a pipeline.",
    "index": "Build an index of a run or of embeddings.",
    "export": "Write the next version of a served model.",
    "reproduce": "Reproduce the tables of the paper.",
    "completion": "Print a script that completes commands in a shell.",
}
"""The commands, which are modules of this folder, and their summaries."""

WITHOUT_PROGRAM = ("recipes", "browse", "completion")
"""Commands that are not installed as separate programs."""

_INTRODUCTION = """\
Instance discrimination for TensorFlow and Keras: `instdisc COMMAND --help`
lists the flags of a command, and `instdisc --version` prints the version.
"""


def main() -> None:
    """Entry point of `instdisc`, and of programs such as `instdisc-train`."""
    command, *arguments = sys.argv[1:] or ["help"]
    program, _, name = os.path.basename(sys.argv[0]).partition("-")
    if program == "instdisc" and name in COMMANDS:
        command, arguments = name, sys.argv[1:]
    if command == "help" and arguments:
        command, arguments = arguments[0], ["--help"]
    if command in ("help", "--help", "-h", "-help", "-?"):
        exit_quietly_if_output_closes()
        print(_INTRODUCTION)
        for name, summary in COMMANDS.items():
            print(f"  {name:10}  {summary}")
    elif command in ("version", "--version"):
        package = importlib.import_module("tf_instdisc")
        print(f"instdisc {package.__version__}")
    elif command in COMMANDS:
        from tf_instdisc.cli.launch import launch

        sys.argv = [f"instdisc-{command}", *arguments]
        launch(importlib.import_module(f"tf_instdisc.cli.{command}"))
    else:
        hint = did_you_mean(command, COMMANDS) or " `instdisc` lists all."
        end(f"The command {command} is unknown.{hint}", 2)
