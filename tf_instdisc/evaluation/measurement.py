"""A measured value and the paper's value."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One value that a protocol measured.

    Attributes:
        protocol: Name of the protocol, such as `"knn"` or `"linear"`.
        name: What was measured, such as `"linear, conv3"`.
        metric: Name of the metric, such as `"top1"` or `"voc_map"`.
        value: A fraction in [0, 1].
        paper: The paper's value, also a fraction; None if there is none.
        paper_setting: The network and data of the paper's value.
    """

    protocol: str
    name: str
    metric: str
    value: float
    paper: float | None = None
    paper_setting: str = ""
