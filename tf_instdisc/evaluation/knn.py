"""Weighted kNN, section 3.4 of the paper."""

import dataclasses

import numpy as np

from tf_instdisc import choices
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation import paper, untrained
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.measurement import Measurement
from tf_instdisc.retrieval.neighbors import knn_accuracy
from tf_instdisc.runs.embedding import Embedded, embed
from tf_instdisc.text import shown
from tf_instdisc.training import finishing

_DATA = ("images", "dataset", "split", "data_dir", "crop_fraction")


@dataclasses.dataclass(frozen=True)
class KNNOptions:
    """How neighbours vote.

    Attributes:
        num_neighbors: Neighbours that vote; the nearest alone is measured
            too. 200 is the paper's.
        temperature: τ of the weights; None for the run's.
        rows: `"encoded"`, the whole images as the trained encoder gives
            them: the run's bank, or other images that are encoded for it;
            `"training"`, the rows that training has left in the run's newest
            checkpoint; or both.
        baselines: Whether the untrained encoder is measured too.
        seed: Of the untrained encoder.

    Raises:
        ValueError: If one of them is out of range.
    """

    num_neighbors: int = 200
    temperature: float | None = None
    rows: tuple[str, ...] = ("encoded",)
    baselines: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_neighbors < 1:
            raise UsageError(
                "`num_neighbors` must be at least 1. Received: "
                f"num_neighbors={self.num_neighbors}"
            )
        if self.temperature is not None and self.temperature <= 0:
            raise UsageError(
                "`temperature` must be above 0. Received: "
                f"temperature={self.temperature}"
            )
        for name in self.rows:
            choices.require("rows", name, choices.KNN_ROWS)


def check(inputs: EvaluationInputs, options: KNNOptions) -> None:
    """Raises ValueError if the labelled images cannot give the neighbours.

    Args:
        inputs: The run and its images.
        options: How neighbours vote.
    """
    if "training" in options.rows:
        bank = finishing.training_rows(inputs.run)
        if bank.class_names != inputs.test_source.class_names:
            ours = ", ".join(map(shown, bank.class_names))
            theirs = inputs.test_source.class_names or ()
            raise UsageError(
                "The test images must have the classes of the run's images, "
                f"{ours or 'which has none'}. "
                f"Received: {', '.join(map(shown, theirs))}."
                " Leave rows='training' (--knn_rows=training) out."
            )
        _require_enough(np.count_nonzero(bank.labels >= 0), options)
    if "encoded" in options.rows:
        _require_enough(len(inputs.labels), options)


def measure(
    inputs: EvaluationInputs,
    options: KNNOptions | None = None,
    protocol: str = "knn",
) -> list[Measurement]:
    """Measures top-1 and top-5 accuracy of the test images.

    Args:
        inputs: The run and its images.
        options: How neighbours vote.
        protocol: Name under which the results stand; `"transfer"` compares
            them with the paper's numbers on Places.

    Returns:
        For each kind of rows, top-1 with many neighbours and with one, and
        top-5 with many.

    Raises:
        ValueError: As `check` does.
    """
    options = options or KNNOptions()
    check(inputs, options)
    test = embed(inputs.encoder, inputs.images(inputs.test_source))
    found = []
    if "training" in options.rows:
        rows = _embedded(finishing.training_rows(inputs.run))
        found += _measure("training", rows, test, inputs, options, protocol)
    if "encoded" in options.rows:
        rows = _encoded(inputs)
        found += _measure("encoded", rows, test, inputs, options, protocol)
    if options.baselines:
        encoder = untrained.encoder_like(
            inputs.encoder, inputs.source, options.seed
        )
        rows, test = (
            embed(encoder, inputs.images(source))
            for source in (inputs.source, inputs.test_source)
        )
        found += _measure("untrained", rows, test, inputs, options, protocol)
    return found


def _embedded(bank):
    return Embedded(bank.rows, bank.instance_ids, bank.labels)


def _encoded(inputs: EvaluationInputs) -> Embedded:
    """The run's bank if it is of these images, which else are encoded."""
    source, bank = inputs.source, inputs.bank
    own, data = inputs.run.read_config().data, inputs.config.data
    is_own = all(getattr(data, name) == getattr(own, name) for name in _DATA)
    if (
        is_own
        and bank.encoded_by is not None
        and len(bank.rows) == source.num_readable
        and bank.class_names == source.class_names
    ):
        return _embedded(bank)
    return embed(inputs.encoder, inputs.images(source), source.num_readable)


def _measure(name, rows, test, inputs, options, protocol):
    temperature = options.temperature
    if temperature is None:
        temperature = inputs.config.method.temperature
    accuracies = knn_accuracy(
        rows.embeddings,
        rows.labels,
        test.embeddings,
        test.labels,
        inputs.num_classes,
        sorted({options.num_neighbors, 1}, reverse=True),
        temperature,
    )
    found = []
    for number, values in accuracies.items():
        number_of_paper = paper.PaperNumber()
        if number == 200 and name != "untrained":
            number_of_paper = paper.beside(
                protocol, "knn", inputs.run.read_config(), inputs.config
            )
        title = f"kNN, {name}, k = {number}"
        found.append(
            Measurement(
                protocol, title, "top1", values["top1"], *number_of_paper
            )
        )
        if number > 1:  # One neighbour names one class.
            found.append(Measurement(protocol, title, "top5", values["top5"]))
    return found


def _require_enough(num_rows, options):
    if num_rows < options.num_neighbors:
        raise UsageError(
            "There must be as many labelled images as neighbours. Received: "
            f"num_neighbors={options.num_neighbors}, {num_rows} images. Lower "
            "--num_neighbors."
        )
