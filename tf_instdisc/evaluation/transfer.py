"""kNN and linear classifiers on another data set than the run's."""

import dataclasses
from collections.abc import Mapping

from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation import knn, linear
from tf_instdisc.evaluation.inputs import EvaluationInputs, open_inputs
from tf_instdisc.evaluation.knn import KNNOptions
from tf_instdisc.evaluation.linear import LinearOptions
from tf_instdisc.evaluation.measurement import Measurement
from tf_instdisc.runs.directory import RunDirectory

_SHARED = ("data_dir", "cache", "bad_images")


@dataclasses.dataclass(frozen=True)
class TransferOptions:
    """The other data set, and how it is measured.

    Attributes:
        images: Flags of `instdisc-train` that name it: `dataset`, `split`,
            `test_split`, `data_dir`, `image_key`, `label_key`, or `images`
            and `test_images`.
        knn: How neighbours vote; they are always encoded images.
        linear: Layers and training of the linear classifiers.

    Raises:
        ValueError: If no data set is named, or one folder of two.
    """

    images: Mapping[str, str]
    knn: KNNOptions = dataclasses.field(default_factory=KNNOptions)
    linear: LinearOptions = dataclasses.field(default_factory=LinearOptions)

    def __post_init__(self) -> None:
        if not {"dataset", "images"} & set(self.images):
            raise UsageError(
                "A transfer needs another data set than the run's. Received: "
                "none. Give --transfer_dataset, or --transfer_images and "
                "--transfer_test_images."
            )
        if ("images" in self.images) != ("test_images" in self.images):
            raise UsageError(
                "A folder to learn from goes with a folder to test on. "
                f"Received: images={self.images.get('images')}, "
                f"test_images={self.images.get('test_images')}. Give "
                "--transfer_images and --transfer_test_images."
            )

    @property
    def encoded(self) -> KNNOptions:
        """kNN's options, without the bank of the run's own images."""
        return dataclasses.replace(self.knn, rows=("encoded",))


def open_transfer(
    run: RunDirectory,
    options: TransferOptions,
    overrides: Mapping[str, str] | None = None,
) -> EvaluationInputs:
    """Opens a run with the images of the other data set.

    Args:
        run: A finished run.
        options: The data set.
        overrides: As in `open_inputs`. Those that do not name the run's own
            images hold for the other data set too, unless `options` has its
            own: `data_dir`, `cache` and `bad_images`.

    Raises:
        ValueError: If it is the run's own, or its labels do not fit.
    """
    data = run.read_config().data
    for name in ("dataset", "images"):
        own = getattr(data, name)
        if name in options.images and options.images[name] == own:
            raise UsageError(
                "A transfer needs another data set than the run's. Received: "
                f"--transfer_{name}={own}, which the run was trained "
                "on. Use --protocol=knn,linear for that."
            )
    shared = {
        name: value
        for name, value in (overrides or {}).items()
        if name in _SHARED
    }
    return open_inputs(run, {**shared, **options.images})


def check(inputs: EvaluationInputs, options: TransferOptions) -> None:
    """Raises ValueError if the images or layers are not enough.

    Args:
        inputs: From `open_transfer`.
        options: How it is measured.
    """
    knn.check(inputs, options.encoded)
    linear.check(inputs, options.linear)


def measure(
    inputs: EvaluationInputs, options: TransferOptions
) -> list[Measurement]:
    """Measures kNN and linear classifiers on the other data set.

    Args:
        inputs: From `open_transfer`.
        options: How it is measured.

    Raises:
        ValueError: As `check` does.
    """
    found = knn.measure(inputs, options.encoded, "transfer")
    found += linear.measure(inputs, options.linear, "transfer")
    title = inputs.source.name
    return [
        dataclasses.replace(one, name=f"{one.name}, to {title}")
        for one in found
    ]
