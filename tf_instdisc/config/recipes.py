"""The recipes: flagfiles that state what they need and what to expect.

They are in the directory `flags/` of the repository, to which
`tf_instdisc/recipes` links; the wheel contains the files themselves. This
module imports nothing heavy.
"""

import pathlib

from tf_instdisc.config.fields import require_choice

FOLDER = pathlib.Path(__file__).parent.parent / "recipes"


def names() -> tuple[str, ...]:
    """Returns the names of the recipes, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.flags")))


def path_of(name: str) -> pathlib.Path:
    """Returns the path of a recipe's flagfile.

    Raises:
        UsageError: If there is no such recipe.
    """
    require_choice("recipe", name, names())
    return FOLDER / f"{name}.flags"


def description_of(name: str) -> str:
    """Returns what a recipe is, with the expected time and score.

    These are lines of its comments, up to 78 characters wide.

    Raises:
        UsageError: If there is no such recipe.
    """
    lines = path_of(name).read_text(encoding="utf-8").splitlines()
    comments = "\n".join(line[2:] for line in lines if line.startswith("#"))
    what, _, rest = comments.partition("\n\n")
    return f"{what}\n{rest[rest.index('Expected time:') :]}"
