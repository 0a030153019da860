"""The recipes: flagfiles that state what they need and what to expect.

They are in the directory `flags/` of the repository, to which
`tf_instdisc/recipes` links; the wheel contains the files themselves. This
module imports nothing heavy.
"""

import dataclasses
import pathlib

from tf_instdisc.config.fields import require_choice

FOLDER = pathlib.Path(__file__).parent.parent / "recipes"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe as described in its comments."""

    name: str
    summary: str
    time: str
    score: str


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


def read(name: str) -> Recipe:
    """Reads the comments of a recipe.

    Raises:
        UsageError: If there is no such recipe.
    """
    text = path_of(name).read_text(encoding="utf-8")
    comments = [line[1:] for line in text.splitlines() if line[:1] == "#"]
    parts = {"": ""}
    title = ""
    for line in comments:
        start, colon, rest = line.strip().partition(":")
        if start in ("Source", "Command", "Hardware") or (
            start.startswith("Expected ") and colon
        ):
            title, line = start, rest
        parts[title] = f"{parts.get(title, '')} {line.strip()}".strip()
    return Recipe(
        name,
        summary=parts[""],
        time=parts.get("Expected time", ""),
        score=parts.get("Expected score", ""),
    )
