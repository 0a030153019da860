"""The options of an export; this module imports no large packages."""

import dataclasses
from typing import Any

from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError

INDEX_DTYPES = ("float32", "float16", "int8")
TFLITE_TYPES = ("float32", "int8")
INDEX_KINDS = ("exact", "partitioned", "ivfpq", "hnsw")


def _target_recall() -> Any:
    return setting(
        0.95,
        "Least fraction of the neighbors of exhaustive search that a search "
        "of a part of the rows finds, measured on some of them.",
        least=0,
        most=1,
        excludes_least=True,
        excludes_most=True,
    )


@dataclasses.dataclass(frozen=True)
class ExportOptions(Settings):
    """Signatures

    Raises:
        UsageError: If a field is out of its range.
    """

    # None, the default of three of these, stands for the value of the run.
    crop_fraction: float = setting(
        None,
        "Center crop as a fraction of the resized shorter side; by default, "
        "the run's.",
        least=0.01,
        most=1,
    )
    image_dtype: str = setting(
        "uint8",
        "Type of the images that serving_default takes; float32 needs four "
        "times the bytes.",
        choices=("uint8", "float32"),
    )
    precision: str = setting(
        "float32",
        "Precision of the encoder.",
        choices=("float32", "bfloat16"),
    )
    bank_dtype: str = setting(
        "float32",
        "Type of the stored bank; int8 needs a quarter of float32.",
        choices=INDEX_DTYPES,
    )
    partitions: str = setting(
        "none",
        "Number of partitions of the bank, of which a search reads the "
        "nearest; auto follows the number of rows; none: searches all rows.",
    )
    target_recall: float = _target_recall()
    num_neighbors: int = setting(10, "Number of neighbors to return.", least=1)
    num_votes: int = setting(
        None,
        "Number of neighbors that vote on the class; by default, that of the "
        "run's kNN.",
        least=1,
    )
    temperature: float = setting(
        None,
        "Temperature of the votes' weights; by default, the run's.",
        least=1e-6,
    )
    bad_bytes: str = setting(
        "mask",
        "What to do with bytes that are not an image: mask returns a zero "
        "embedding and valid = false, error fails their request.",
        choices=("mask", "error"),
    )
    max_pixels: int = setting(
        50_000_000,
        "Images with more pixels are rejected before they are decoded.",
        least=1,
    )
    batch_sizes: tuple[int, ...] = setting(
        (1, 2, 4, 8, 16, 32),
        "Batch sizes of the server, in ascending order; each is warmed up.",
        is_rising=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.partitions not in ("none", "auto") and not (
            self.partitions.isdecimal() and int(self.partitions) > 0
        ):
            raise UsageError(
                "`partitions` must be none, auto or a positive number. "
                f"Received: partitions={self.partitions!r}"
            )
        if not self.batch_sizes:
            raise UsageError(
                "`batch_sizes` must not be empty. Received: batch_sizes=()"
            )


@dataclasses.dataclass(frozen=True)
class IndexOptions(Settings):
    """Index

    Raises:
        UsageError: If a field is out of its range.
    """

    kind: str = setting(
        "partitioned",
        "exact, partitioned: a SavedModel; ivfpq, hnsw: a file of faiss.",
        choices=INDEX_KINDS,
    )
    num_partitions: int | None = setting(
        None,
        "Number of partitions of --kind=partitioned; by default about twice "
        "the square root of the number of rows.",
        least=1,
    )
    dtype: str = setting(
        "float32",
        "Type of the stored rows of a SavedModel.",
        choices=INDEX_DTYPES,
    )
    num_neighbors: int = setting(
        20,
        "Number of neighbors that a SavedModel returns and that the recall is "
        "measured for.",
        least=1,
    )
    target_recall: float = _target_recall()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_partitions and self.kind != "partitioned":
            raise UsageError(
                "`num_partitions` requires kind=partitioned. Received: "
                f"num_partitions={self.num_partitions}, kind={self.kind}"
            )
        if self.dtype != "float32" and self.kind in ("ivfpq", "hnsw"):
            raise UsageError(
                "`dtype` requires kind=exact or kind=partitioned. Received: "
                f"dtype={self.dtype}, kind={self.kind}"
            )
