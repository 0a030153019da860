"""Text from outside (file names, checkpoints, servers) for people and tools.

The module imports nothing heavy.
"""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

# Control characters, invisible and bidirectional formatting, surrogates, and
# the separators of lines and paragraphs: anything that moves the cursor, breaks
# a line, reverses the text after it, or cannot be encoded.
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

_MOST_NAMES = 20

UNTRUSTED_LIMIT = 200
"""The characters of a file's or a server's text that a message shows."""


def shown(text: str, limit: int | None = None) -> str:
    r"""Escapes text that came from outside, for one line of output.

    Control characters, line ends, tabs, invisible and bidirectional
    formatting characters and lone surrogates are written as Python escapes
    (`\n`, `\t`, `\x1b`, `\u202e`), and a backslash as `\\`. Nothing is lost:
    `text.encode("ascii", "backslashreplace").decode("unicode_escape")`
    restores the text.

    Args:
        text: A file name, a class name, or text from a checkpoint or a server.
        limit: Largest length of the result; a longer text is cut and ends in
            `...`. By default, the whole text is shown.

    Returns:
        Printable text without tabs or line ends.
    """
    if limit is not None:
        # No character becomes shorter, so the rest cannot appear.
        text = text[: limit + 1]
    if not text.isprintable() or "\\" in text:
        text = "".join(
            "\\\\" if character == "\\" else _escaped(character)
            for character in text
        )
    if limit is not None and len(text) > limit:
        text = f"{text[: max(limit - 3, 0)]}..."
    return text


def shown_message(message: str) -> str:
    """Escapes what a terminal would act on; line ends and `\\` are kept.

    Use it for whole messages, whose parts are already escaped or our own.
    """
    if message.isprintable():
        return message
    return "".join(
        character if character == "\n" else _escaped(character)
        for character in message
    )


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    return character.encode("unicode_escape").decode("ascii")


def did_you_mean(
    value: str, known: Iterable[str], most: int = 1, prefix: str = ""
) -> str:
    """Returns a question that ends a message about an unknown name.

    Args:
        most: The largest number of suggestions.
        prefix: A prefix for each suggestion, such as `--`.

    Returns:
        `" Did you mean a or b?"`, or an empty string if no name is close.
    """
    close = difflib.get_close_matches(value.lower(), list(known), n=most)
    if not close:
        return ""
    return f" Did you mean {' or '.join(prefix + name for name in close)}?"


def listed(names: Iterable[str], most: int = _MOST_NAMES) -> str:
    """Lists names in a message, escaped; an ellipsis replaces further ones."""
    names = list(names)
    more = ", ..." if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def lines_of(names: Sequence[str]) -> str:
    """Lists names below a message, escaped, each on a line of its own."""
    lines = [shown(name) for name in names[:_MOST_NAMES]]
    if len(names) > _MOST_NAMES:
        lines.append(f"and {len(names) - _MOST_NAMES} more")
    return "".join(f"\n  {line}" for line in lines)


def tsv(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Returns tab-separated lines; every value is escaped as by `shown`."""
    lines = [header, *rows]
    return "".join(
        "\t".join(shown(str(value)) for value in line) + "\n" for line in lines
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Returns a table in Markdown, which ends with a line end."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
