"""What an export may be told."""

import dataclasses

from tf_instdisc import choices
from tf_instdisc.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of an exported model.

    Attributes:
        crop_fraction: As in `evaluation_dataset`; that of the run.
        image_dtype: Type that `serving_default` and `neighbors` take:
            `"uint8"`, or `"float32"` at four times the bytes.
        precision: `"float32"`, or `"bfloat16"` for all layers but the last.
        bank_dtype: How the bank is stored: `"float32"`, `"float16"`,
            `"int8"`.
        num_neighbors: Neighbours that `neighbors` gives.
        num_votes: Neighbours that vote in `classify_bytes`.
        temperature: τ of the votes' weights; that of the run.
        bad_bytes: What bytes that are no image do: `"mask"` gives a zero
            embedding and `valid` false, `"error"` fails their request.
        max_pixels: Images with more pixels are refused undecoded.
        batch_sizes: Rising. A warm-up record is written for each; they are
            the server's `allowed_batch_sizes`.

    Raises:
        ValueError: If an attribute is out of its range.
    """

    crop_fraction: float = 1.0
    image_dtype: str = "uint8"
    precision: str = "float32"
    bank_dtype: str = "float32"
    num_neighbors: int = 10
    num_votes: int = 200
    temperature: float = 0.07
    bad_bytes: str = "mask"
    max_pixels: int = 50_000_000
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    def __post_init__(self) -> None:
        for name, known in (
            ("image_dtype", choices.IMAGE_DTYPES),
            ("precision", choices.EXPORT_PRECISIONS),
            ("bank_dtype", choices.INDEX_DTYPES),
            ("bad_bytes", choices.BAD_BYTES),
        ):
            choices.require(name, getattr(self, name), known)
        for name in ("num_neighbors", "num_votes", "max_pixels"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(
                    f"`{name}` must be at least 1. Received: {name}={value}"
                )
        if not 0 < self.crop_fraction <= 1:
            raise UsageError(
                "`crop_fraction` must be in (0, 1]. "
                f"Received: crop_fraction={self.crop_fraction}"
            )
        if not self.temperature > 0:
            raise UsageError(
                "`temperature` must be above 0. "
                f"Received: temperature={self.temperature}"
            )
        sizes = list(self.batch_sizes)
        if not sizes or sizes[0] < 1 or sizes != sorted(set(sizes)):
            raise UsageError(
                "`batch_sizes` must be positive and rising. "
                f"Received: batch_sizes={self.batch_sizes}"
            )
