"""kNN and linear classifiers on a data set other than the run's."""

import dataclasses
from typing import TYPE_CHECKING

from tf_instdisc.config.data import data_overrides
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation.knn_protocol import KNN, KNNOptions
from tf_instdisc.evaluation.linear_protocol import Linear, LinearOptions
from tf_instdisc.evaluation.protocol import Measurement, Protocol

if TYPE_CHECKING:
    from tf_instdisc.evaluation.inputs import EvaluationInputs, UnopenedRun

# Settings that apply to the run's images and to the other data set alike.
_SHARED = ("data_dir", "cache", "bad_images")


@dataclasses.dataclass(frozen=True)
class TransferOptions(Settings):
    """Transfer: the other data set

    ```python
    run = tf_instdisc.Run("runs/photos")
    run.evaluate(
        transfer=tf_instdisc.TransferOptions(
            images="photos",
            test_images="photos_test",
            linear=tf_instdisc.LinearOptions(layers=("conv5",), epochs=10),
        )
    )
    ```

    Attributes:
        knn: Options of kNN. `rows` is ignored: the rows are always encoded.
        linear: Options of the linear classifiers.
    """

    dataset: str | None = setting(
        None,
        "TFDS data set to train and test on.",
        flag="transfer_dataset",
    )
    split: str | None = setting(
        None,
        "Its training split; train by default.",
        flag="transfer_split",
    )
    test_split: str | None = setting(
        None,
        "Its test split; test by default.",
        flag="transfer_test_split",
    )
    data_dir: str | None = setting(
        None,
        "Where TFDS keeps it; by default --data_dir, or the run's.",
        is_path=True,
        flag="transfer_data_dir",
    )
    image_key: str | None = setting(
        None,
        "Its feature that holds the images.",
        flag="transfer_image_key",
    )
    label_key: str | None = setting(
        None,
        "Its feature that holds the labels.",
        flag="transfer_label_key",
    )
    images: str | None = setting(
        None,
        "Folder of training images.",
        is_path=True,
        flag="transfer_images",
    )
    test_images: str | None = setting(
        None,
        "Folder of test images.",
        is_path=True,
        flag="transfer_test_images",
    )
    knn: KNNOptions = dataclasses.field(default_factory=KNNOptions)
    linear: LinearOptions = dataclasses.field(default_factory=LinearOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.dataset is None) == (self.images is None):
            raise UsageError(
                "A transfer needs another data set than the run's, or folders "
                f"of images. Received: dataset={self.dataset}, images="
                f"{self.images}. Give `dataset`, or `images` and "
                "`test_images`."
            )
        if (self.images is None) != (self.test_images is None):
            raise UsageError(
                "A folder of training images needs a folder of test images. "
                f"Received: images={self.images}, test_images="
                f"{self.test_images}. Give `images` and `test_images`."
            )


class Transfer(Protocol):
    """kNN and linear classifiers on images that the run has not seen."""

    name = "transfer"
    options_kind = TransferOptions
    options: TransferOptions

    def __init__(self, options: TransferOptions):
        super().__init__(options)
        # The bank's rows belong to the run's own images.
        knn = dataclasses.replace(options.knn, rows=("encoded",))
        self._parts = _KNN(knn), _Linear(options.linear)

    def open(self, unopened: "UnopenedRun") -> "EvaluationInputs":
        from tf_instdisc.evaluation.inputs import open_inputs

        given = data_overrides(self.options)
        data = unopened.run.read_config().data
        for name in ("dataset", "images"):
            own = getattr(data, name)
            if name in given and given[name] == own:
                raise UsageError(
                    "A transfer needs another data set than the run's. "
                    f"Received: --transfer_{name}={own}, which the run was "
                    "trained on. Use --protocol=knn,linear for that."
                )
        shared = {
            name: value
            for name, value in unopened.overrides.items()
            if name in _SHARED
        }
        return open_inputs(unopened.run, {**shared, **given})

    def check(self, inputs: "EvaluationInputs") -> None:
        for part in self._parts:
            part.check(inputs)

    def measure(self, inputs: "EvaluationInputs") -> list[Measurement]:
        # Folders of different data sets often have the same name.
        title = self.options.images or inputs.source.name
        return [
            dataclasses.replace(one, name=f"{one.name}, to {title}")
            for part in self._parts
            for one in part.measure(inputs)
        ]


class _KNN(KNN):
    name = Transfer.name


class _Linear(Linear):
    name = Transfer.name
