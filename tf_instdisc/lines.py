"""Tab-separated lines for the shell."""

from collections.abc import Iterable, Sequence

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def tsv(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    r"""Tab-separated lines; in text, `\`, tab and line ends are escaped."""
    lines = [header, *rows]
    return "".join(
        "\t".join(str(value).translate(_ESCAPES) for value in line) + "\n"
        for line in lines
    )
