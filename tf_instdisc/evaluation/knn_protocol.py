"""Weighted kNN as in section 3.4 of the paper."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import DamagedFileError, UsageError
from tf_instdisc.evaluation.protocol import (
    Measurement,
    Protocol,
    baselines_setting,
    seed_setting,
)
from tf_instdisc.text import listed

if TYPE_CHECKING:
    from tf_instdisc.evaluation.inputs import EvaluationInputs
    from tf_instdisc.runs.bank import Bank
    from tf_instdisc.runs.embedding import Embedded

_DATA = (
    "images",
    "dataset",
    "split",
    "data_dir",
    "image_key",
    "label_key",
    "crop_fraction",
)
_COMPARED = 256  # Files.


@dataclasses.dataclass(frozen=True)
class KNNOptions(Settings):
    """kNN

    ```python
    run = tf_instdisc.Run("runs/photos")
    run.evaluate(knn=tf_instdisc.KNNOptions(num_neighbors=20))
    ```
    """

    num_neighbors: int | None = setting(
        None,
        "Number of neighbors that vote; by default that of the run's "
        "training, and at most all labeled rows. One neighbor is measured "
        "too.",
        least=1,
    )
    temperature: float | None = setting(
        None, "Temperature of the votes; the run's by default.", least=1e-3
    )
    rows: tuple[str, ...] = setting(
        ("encoded",),
        "Rows that vote: encoded, the trained encoder's embeddings of the "
        "whole images; training, the memory bank of the newest training "
        "checkpoint; or both.",
        choices=("encoded", "training"),
        is_filled=True,
        flag="knn_rows",
    )
    baselines: bool = baselines_setting()
    seed: int = seed_setting()


class KNN(Protocol):
    """Top-1 and top-5 accuracy of a vote of the nearest rows.

    For each kind of rows, it measures top-1 accuracy with `num_neighbors`
    neighbors and with one, and top-5 accuracy with `num_neighbors`. If there
    are fewer labeled rows, all of them vote, and the result names their number.
    """

    name = "knn"
    options_kind = KNNOptions
    options: KNNOptions

    def check(self, inputs: "EvaluationInputs") -> None:
        if "training" in self.options.rows:
            from tf_instdisc.training.finishing import training_rows

            bank = training_rows(inputs.run)
            if bank.class_names != inputs.test_source.class_names:
                known = listed(bank.class_names) or "of which there are none"
                raise UsageError(
                    "The test images must have the classes of the run's "
                    f"images, {known}. "
                    "Received: "
                    f"{listed(inputs.test_source.class_names or ())}. Leave "
                    "rows='training' (--knn_rows=training) out."
                )

    def measure(self, inputs: "EvaluationInputs") -> list[Measurement]:
        from tf_instdisc.evaluation import untrained
        from tf_instdisc.runs.embedding import embed, inference, on_devices
        from tf_instdisc.training.finishing import training_rows

        test = embed(inputs.encode, inputs.images(inputs.test_source))
        found = []
        if "training" in self.options.rows:
            rows = _rows_of(training_rows(inputs.run))
            found += self._vote("training", rows, test, inputs)
        if "encoded" in self.options.rows:
            found += self._vote("encoded", _encoded(inputs), test, inputs)
        if self.options.baselines:
            encoder = untrained.encoder_like(
                inputs.encoder, inputs.source, self.options.seed
            )
            encode = inference(on_devices(encoder))
            rows, test = (
                embed(encode, inputs.images(source))
                for source in (inputs.source, inputs.test_source)
            )
            found += self._vote("untrained", rows, test, inputs)
        return found

    def _vote(
        self,
        name: str,
        rows: "Embedded",
        test: "Embedded",
        inputs: "EvaluationInputs",
    ) -> list[Measurement]:
        from tf_instdisc.retrieval.votes import knn_accuracy

        temperature = self.options.temperature
        if temperature is None:
            temperature = inputs.config.method.temperature
        wanted = self.options.num_neighbors
        wanted = wanted or inputs.config.training.num_neighbors
        num_rows = int((rows.labels >= 0).sum())
        accuracies = knn_accuracy(
            rows.embeddings,
            rows.labels,
            test.embeddings,
            test.labels,
            inputs.source.num_classes,
            sorted({min(wanted, num_rows), 1}, reverse=True),
            temperature,
        )
        found = []
        for k, values in accuracies.items():
            if k == 1:  # A single neighbor votes for a single class.
                del values["top5"]
            is_papers = k == 200 and name != "untrained"
            found += self.accuracies(
                inputs,
                f"kNN, {name}, k = {k}",
                values,
                top1="knn" if is_papers else None,
            )
        return found


def _rows_of(bank: "Bank") -> "Embedded":
    from tf_instdisc.runs.embedding import Embedded

    return Embedded(bank.rows, bank.instance_ids, bank.labels)


def _encoded(inputs: "EvaluationInputs") -> "Embedded":
    """Returns the run's bank if it fits the images; else encodes them."""
    from tf_instdisc.runs.embedding import embed

    source, bank = inputs.source, inputs.bank
    own, data = inputs.run.read_config().data, inputs.config.data
    is_own = all(getattr(data, name) == getattr(own, name) for name in _DATA)
    if (
        is_own
        and bank.encoded_by is not None
        and len(bank.rows) == source.num_readable
        and bank.class_names == source.class_names
        and (data.images is None or _is_of_folder(inputs))
    ):
        return _rows_of(bank)
    return embed(inputs.encode, inputs.images(source), source.num_readable)


def _is_of_folder(inputs: "EvaluationInputs") -> bool:
    """Tests whether the bank's files have moved or changed since.

    Names and labels of all files are compared, but the contents of a sample:
    single files that were replaced are for `instdisc update`.
    """
    from tf_instdisc.checksums import sha256_of_file

    source, bank = inputs.source, inputs.bank
    labels = source.labels().tolist()
    present = {source.instance_name(i): one for i, one in enumerate(labels)}
    rows = zip(bank.names.tolist(), bank.labels.tolist(), strict=True)
    if any(present.get(name) != label for name, label in rows):
        return False
    try:
        digests = inputs.run.load_instances().digests
    except DamagedFileError:
        return False
    known = sorted(name for name, digest in digests.items() if digest)
    folder = pathlib.Path(source.folder or "")
    return all(
        digests[name] == sha256_of_file(folder / name)
        for name in known[:: len(known) // _COMPARED + 1]
        if name in present
    )
