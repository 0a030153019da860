"""The columns of a file of embeddings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tf_instdisc.errors import require_extra
from tf_instdisc.runs.bank import quantize

if TYPE_CHECKING:
    import pyarrow


def table_of(
    ids: np.ndarray,
    names: Sequence[str],
    embeddings: np.ndarray,
    digest: str,
    dtype: str = "float32",
) -> "pyarrow.Table":
    """Returns embeddings as the columns of a Parquet file.

    Args:
        ids: int64 `[size]`.
        names: `[size]`.
        embeddings: float32 `[size, embedding_dim]`, of unit length.
        digest: Identifies the model, for every row.
        dtype: `"float32"`, `"float16"` or `"int8"`.

    Returns:
        `id`, `name`, `embedding` as a list of fixed size, `digest` and, for
        int8, `scale`: an embedding is its scale times its integers.
    """
    import pyarrow

    stored, scales = quantize(embeddings, dtype)
    columns = {
        "id": pyarrow.array(ids, pyarrow.int64()),
        "name": pyarrow.array(names, pyarrow.string()),
        "embedding": pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(stored.ravel()), stored.shape[1]
        ),
        "digest": pyarrow.array([digest] * len(ids), pyarrow.string()),
    }
    if scales is not None:
        columns["scale"] = pyarrow.array(scales)
    return pyarrow.table(columns)


def read_columns(
    path: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Reads ids, names, embeddings and the digest of their model.

    Args:
        path: `.npz`, or a Parquet file or a directory of Parquet files.

    Returns:
        int64 `[size]`, str `[size]`, float `[size, embedding_dim]` and a
        string. Rows without ids, as earlier versions wrote them, are numbered,
        and a missing digest is empty.

    Raises:
        ValueError: If the rows are of several models.
    """
    if path.endswith(".npz"):
        with np.load(path) as file:
            names, rows = file["names"], file["embeddings"]
            ids = file["ids"] if "ids" in file else np.arange(len(names))
            digest = str(file["digest"]) if "digest" in file else ""
            return ids, names, rows, digest
    require_extra("parquet", "pyarrow")
    from pyarrow import parquet

    table = parquet.read_table(path)
    names = np.array(table["name"].to_pylist())
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    rows = flat.reshape(len(names), -1)
    if "scale" in table.column_names:
        rows = rows * table["scale"].to_numpy()[:, None]
    ids = np.arange(len(names))
    if "id" in table.column_names:
        ids = table["id"].to_numpy()
    digests = [""]
    if "digest" in table.column_names:
        digests = table["digest"].unique().to_pylist() or digests
    if len(digests) > 1:
        raise ValueError(f"its rows are of {len(digests)} models")
    return ids, names, rows, digests[0]
