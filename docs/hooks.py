"""Hooks of MkDocs: what a page takes from a file or from the package.

A page asks for it in a comment of its own line: `<!-- include: FILE -->` for a
Markdown file of the repository or the code of a script, `<!-- settings: NAME
-->` for a table of a settings class, or `<!-- recipes -->` for all recipes.
"""

import dataclasses
import pkgutil
import posixpath
import re
from pathlib import Path

import tf_instdisc
from tf_instdisc.config import recipes
from tf_instdisc.config.fields import (
    flag_of,
    is_setting,
    kind_of,
    rule_of,
    text_of,
)

ROOT = Path(__file__).parent.parent
_PAGES = {
    "BENCHMARKS.md": "docs/results.md",
    "BUILD_NOTES.md": "docs/decisions.md",
    "CHANGELOG.md": "docs/changelog.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "README.md": "docs/index.md",
    "examples/README.md": "docs/examples.md",
}
"""Files that are included, and the pages that include them."""
_COMMENT = re.compile(
    r"^<!-- (include|settings|recipes)(?:: (\S+))? -->$", re.M
)
_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)]+)")


def on_page_markdown(markdown: str, page, **_) -> str:
    """Fills in the comments of a page."""
    folder = posixpath.dirname(page.file.src_uri)

    def text(match: re.Match) -> str:
        kind, name = match.groups()
        if kind == "include":
            return _file(name, folder)
        return _settings(name) if kind == "settings" else _recipes()

    return _COMMENT.sub(text, markdown)


def _file(name: str, folder: str) -> str:
    """Returns a file as Markdown whose links are valid in the page."""
    path = ROOT / name
    if path.is_relative_to(ROOT / "tf_instdisc"):
        # The package may be installed elsewhere, without its sources here.
        package = Path(tf_instdisc.__file__).parent
        path = package / path.relative_to(ROOT / "tf_instdisc")
    text = path.read_text(encoding="utf-8")
    if name.endswith(".py"):
        return f"```python\n{text}```\n"
    text = text.partition("\n")[2]  # Without its title.

    def link(match: re.Match) -> str:
        path, mark, anchor = match[2].partition("#")
        target = posixpath.join(posixpath.dirname(name), path)
        target = _PAGES.get(target, target)
        start = f"docs/{folder}"
        return match[1] + posixpath.relpath(target, start) + mark + anchor

    return _LINK.sub(link, text)


def _settings(name: str) -> str:
    """Returns a table of the fields of a settings class."""
    kind = pkgutil.resolve_name(f"tf_instdisc.{name}")
    lines = [
        "| field | type | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for field in filter(is_setting, dataclasses.fields(kind)):
        rule = rule_of(field)
        member, is_tuple = kind_of(kind, field)
        type_name = (
            f"tuple of {member.__name__}" if is_tuple else member.__name__
        )
        has_default = field.default not in (None, "")
        default = f"`{text_of(field.default)}`" if has_default else ""
        choices = ", ".join(f"`{choice}`" for choice in rule.choices)
        text = rule.help + (f" One of {choices}." if choices else "")
        if flag_of(field) != field.name:
            text += f" The flag is `--{flag_of(field)}`."
        cells = f"`{field.name}`", type_name, default, text.replace("|", "\\|")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _recipes() -> str:
    """Returns a section for each recipe."""
    parts = []
    for name in recipes.names():
        flags = recipes.path_of(name).read_text(encoding="utf-8")
        flags = "\n".join(
            line for line in flags.splitlines() if line.startswith("-")
        )
        text = recipes.description_of(name)
        text = text.replace("Expected time:", "\n- **Time:**")
        text = text.replace("Expected score:", "- **Score:**")
        parts.append(f"## {name}\n\n{text}\n\n```text\n{flags}\n```\n")
    return "\n".join(parts)
