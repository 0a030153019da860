"""instdisc recipes: lists the recipes."""

import textwrap

from tf_instdisc.cli.failures import exit_quietly_if_output_closes
from tf_instdisc.cli.launch import launch
from tf_instdisc.config import recipes
from tf_instdisc.errors import MissingFileError

_SUMMARY = """
Lists the recipes, with the expected time and score.

  instdisc train --recipe=digits --run_dir=runs/digits
"""
SETTINGS: list[type] = []


def main() -> None:
    """Entry point of `instdisc recipes`."""
    launch(_recipes, _SUMMARY, SETTINGS, needs_tensorflow=False)


def _recipes() -> None:
    exit_quietly_if_output_closes()
    names = recipes.names()
    if not names:
        raise MissingFileError(
            f"The recipes (*.flags) must be in {recipes.FOLDER}. Received: "
            "none. Install tf_instdisc again."
        )
    for recipe in map(recipes.read, names):
        print(recipe.name)
        for line in (
            recipe.summary,
            f"Time: {recipe.time}",
            f"Score: {recipe.score}",
        ):
            print(
                textwrap.fill(
                    line, 80, initial_indent="  ", subsequent_indent="    "
                )
            )


if __name__ == "__main__":
    main()
