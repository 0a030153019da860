"""What a protocol gives: numbers, each beside the paper's."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One number of a protocol.

    Attributes:
        protocol: `"knn"`, `"linear"`, ...
        name: What was measured: `"conv3"`, `"1% of the labels, pre-trained"`.
        metric: `"top1"`, `"top5"`, `"voc_map"`, ...
        value: A fraction in [0, 1].
        paper: The paper's number, in the same unit; None if it has none.
        paper_setting: Network and data of the paper's number.
    """

    protocol: str
    name: str
    metric: str
    value: float
    paper: float | None = None
    paper_setting: str = ""
