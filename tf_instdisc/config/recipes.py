"""The recipes: flagfiles that say what they need and what to expect.

They lie in the repository's `flags/`, which `tf_instdisc/recipes` links to and
the wheel holds in its place. It imports nothing heavy.
"""

import dataclasses
import pathlib

from tf_instdisc.config.fields import require_choice

FOLDER = pathlib.Path(__file__).parent.parent / "recipes"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe as its comments describe it.

    Attributes:
        name: Of the file, without its ending.
        summary: The first sentences.
        time: How long it is expected to train.
        score: What it is expected to reach.
    """

    name: str
    summary: str
    time: str
    score: str


def names() -> tuple[str, ...]:
    """The recipes, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.flags")))


def path_of(name: str) -> pathlib.Path:
    """The flagfile of a recipe.

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
