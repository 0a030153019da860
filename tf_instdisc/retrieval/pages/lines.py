"""Formats neighbors as lines for the shell."""

import json

from tf_instdisc.retrieval.pages.grid import Row
from tf_instdisc.text import tsv


def neighbors_tsv(rows: list[Row]) -> str:
    """Returns one line for each neighbor."""
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
    """Returns one line for each query, a JSON object in ASCII."""
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
            }
        )
        + "\n"
        for row in rows
    )
