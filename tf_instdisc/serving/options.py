"""What an export may be told; it imports nothing heavy."""

import dataclasses

from tf_instdisc.config import DataConfig, MethodConfig, TrainingConfig
from tf_instdisc.config.fields import check, setting
from tf_instdisc.errors import UsageError

INDEX_DTYPES = ("float32", "float16", "int8")
PRECISIONS = ("float32", "bfloat16")
TFLITE_TYPES = ("float32", "int8")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Signatures

    Raises:
        UsageError: If a field is out of its range.
    """

    crop_fraction: float = setting(
        DataConfig.crop_fraction,
        "Center crop as a fraction of the resized shorter side; the run's.",
        least=0.01,
        most=1,
    )
    image_dtype: str = setting(
        "uint8",
        "Type of the images that serving_default takes; float32 takes four "
        "times the bytes.",
        choices=("uint8", "float32"),
    )
    precision: str = setting(
        "float32", "What the encoder computes in.", choices=PRECISIONS
    )
    bank_dtype: str = setting(
        "float32",
        "How the bank is stored; int8 takes a quarter of float32.",
        choices=INDEX_DTYPES,
    )
    num_neighbors: int = setting(10, "Neighbors that are given.", least=1)
    num_votes: int = setting(
        TrainingConfig.num_neighbors,
        "Neighbors that vote on the class; the run's.",
        least=1,
    )
    temperature: float = setting(
        MethodConfig.temperature,
        "Temperature of the votes' weights; the run's.",
        least=1e-6,
    )
    bad_bytes: str = setting(
        "mask",
        "What bytes do that are no image: mask gives a zero embedding and "
        "valid = false, error fails their request.",
        choices=("mask", "error"),
    )
    max_pixels: int = setting(
        50_000_000,
        "Images with more pixels are refused before they are decoded.",
        least=1,
    )
    batch_sizes: tuple[int, ...] = setting(
        (1, 2, 4, 8, 16, 32),
        "Rising batch sizes that the server may form; each one is warmed up.",
        is_rising=True,
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.batch_sizes:
            raise UsageError(
                "`batch_sizes` must hold a size. Received: batch_sizes=()"
            )
