"""Results as lines for the shell: TSV with escapes, and JSON."""

import json
from collections.abc import Iterable, Sequence

from tf_instdisc.report.grid import Row

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def tsv(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    r"""Tab-separated lines; in text, `\`, tab and line ends are escaped."""
    lines = [header, *rows]
    return "".join(
        "\t".join(str(value).translate(_ESCAPES) for value in line) + "\n"
        for line in lines
    )


def neighbors_tsv(rows: list[Row]) -> str:
    """One line for each neighbour."""
    header = (
        "query",
        "query_label",
        "rank",
        "instance_id",
        "name",
        "label",
        "score",
    )
    return tsv(
        header,
        (
            (
                row.name,
                row.label,
                rank,
                cell.instance_id,
                cell.name,
                cell.label,
                f"{cell.score:.6f}",
            )
            for row in rows
            for rank, cell in enumerate(row.cells, start=1)
        ),
    )


def neighbors_json(rows: list[Row]) -> str:
    """One JSON object for each query, on a line of its own."""
    return "".join(
        json.dumps(
            {
                "query": row.name,
                "label": row.label or None,
                "neighbors": [
                    {
                        "instance_id": cell.instance_id,
                        "name": cell.name,
                        "label": cell.label or None,
                        "score": round(cell.score, 6),
                    }
                    for cell in row.cells
                ],
            },
            ensure_ascii=False,
        )
        + "\n"
        for row in rows
    )
