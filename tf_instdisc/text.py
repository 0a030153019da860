"""Text from outside (file names, checkpoints, servers) for people and tools.

It imports nothing heavy.
"""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

# Control characters, invisible and bidirectional formatting, surrogates, and
# the separators of lines and paragraphs: what moves a cursor, breaks a line,
# reverses what follows, or cannot be encoded.
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

UNTRUSTED_LIMIT = 200
"""Characters that a message shows of what a file or a server holds."""


def shown(text: str, limit: int | None = None) -> str:
    r"""Escapes text that came from outside, for one line of output.

    Control characters, line ends, tabs, invisible and bidirectional
    formatting characters and lone surrogates are written as Python escapes
    (`\n`, `\t`, `\x1b`, `\u202e`), and a backslash as `\\`. Nothing is lost:
    `text.encode("ascii", "backslashreplace").decode("unicode_escape")` gives
    the text back.

    Args:
        text: Of a file name, a class name, a checkpoint or a server.
        limit: Largest length of the result; a longer one ends in `...`.
            Without one, all of it is shown.

    Returns:
        Text that can be printed as it is and holds neither tabs nor line ends.
    """
    if limit is not None:
        # No character becomes shorter, so that the rest need not be looked at.
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

    For whole messages, whose parts have been escaped before or are ours.
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
    """A question that ends a message about an unknown name.

    Args:
        value: What was given.
        known: What could have been.
        most: Most names that are suggested.
        prefix: Stands before each, such as `--`.

    Returns:
        `" Did you mean a or b?"`, or nothing where no name is close.
    """
    close = difflib.get_close_matches(value.lower(), list(known), n=most)
    if not close:
        return ""
    return f" Did you mean {' or '.join(prefix + name for name in close)}?"


def tsv(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Tab-separated lines; every value is escaped as `shown` does."""
    lines = [header, *rows]
    return "".join(
        "\t".join(shown(str(value)) for value in line) + "\n" for line in lines
    )
