"""Lists the recipes, with the expected time and score.

Example:
  instdisc train --recipe=digits --run_dir=runs/digits
"""

import textwrap

from tf_instdisc.cli.failures import exit_quietly_if_output_closes
from tf_instdisc.config import recipes
from tf_instdisc.errors import MissingFileError

SETTINGS: list[type] = []
NEEDS_TENSORFLOW = False


def main() -> None:
    """Prints the recipes."""
    exit_quietly_if_output_closes()
    names = recipes.names()
    if not names:
        raise MissingFileError(
            f"The recipes (*.flags) must be in {recipes.FOLDER}. Received: "
            "none. Install tf_instdisc again."
        )
    for name in names:
        print(name)
        print(textwrap.indent(recipes.description_of(name), "  "))
