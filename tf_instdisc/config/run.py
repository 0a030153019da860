"""Settings of a run and its monitoring, and the configuration as a whole."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from tf_instdisc.config.data import AugmentationConfig, DataConfig
from tf_instdisc.config.encoder import (
    EncoderConfig,
    default_stem,
    require_image_size,
)
from tf_instdisc.config.fields import (
    Settings,
    from_texts,
    read_flagfile,
    setting,
    to_texts,
)
from tf_instdisc.config.method import MethodConfig, OptimizerConfig
from tf_instdisc.errors import UsageError

# Settings that may change when a run is continued. `bank_placement` may,
# because a checkpoint holds the whole bank.
_CHANGEABLE = (
    "epochs",
    "batch_size",
    "learning_rate",
    "learning_rate_scaling",
    "schedule",
    "schedule_epochs",
    "warmup_epochs",
    "momentum",
    "weight_decay",
    "bank_placement",
)
# Of these groups, only the settings that determine the outcome are compared.
_FIXED = {
    "data": ("image_size", "train_image_size", "dataset", "image_key"),
    "training": ("init_run", "seed"),
}


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
    """Run and monitoring

    ```python
    training = tf_instdisc.TrainingConfig(seed=1, knn_every=5, keep_best=True)
    ```
    """

    init_run: str | None = setting(
        None,
        "A finished run, or one that instdisc-update has updated: this run "
        "starts from its encoder and rows, and keeps the ids of its images.",
        is_path=True,
    )
    seed: int = setting(
        0,
        "Seed of the weights, bank, shuffling, augmentation and negatives.",
        least=0,
        most=2**31 - 1,
    )
    num_neighbors: int = setting(200, "Neighbors that vote in kNN.", least=1)
    knn_every: int = setting(1, "Epochs between two kNN measurements.", least=1)
    keep_best: bool = setting(
        False,
        "Keep the encoder of the epoch with the best kNN top-1 accuracy "
        "in addition to the last one, as encoder_best.keras. Needs kNN.",
    )
    knn_encode: bool = setting(
        False,
        "Also measure kNN with the training images encoded by the current "
        "encoder.",
    )
    baselines: bool = setting(
        False,
        "Compare with the encoder before training and with raw pixels at the "
        "end.",
    )
    grid_every: int = setting(
        0,
        "Epochs between two neighbor grids in TensorBoard, which also gets "
        "the embedding projector at the end; 0 for none. Needs the extra "
        "'report'.",
        least=0,
    )
    checkpoint_minutes: float = setting(
        15.0,
        "Minutes between two checkpoints within an epoch; every epoch ends "
        "with a checkpoint.",
        least=0,
    )
    keep_checkpoints: int = setting(3, "Checkpoints to keep.", least=1)
    distribution: str = setting(
        "auto",
        "auto: all visible GPUs of this host or, without one, all "
        "--logical_cpus. one_device: the first of them. mirrored: as auto, but "
        "a MirroredStrategy even on one device. multi_worker: the hosts in the "
        "environment variable TF_CONFIG; run the same command on each.",
        choices=("auto", "one_device", "mirrored", "multi_worker"),
    )
    logical_cpus: int = setting(
        1,
        "Number of devices into which the CPU is split, to try several "
        "replicas without GPUs by --distribution=auto or mirrored.",
        least=1,
    )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """All settings of a run.

    ```python
    config = tf_instdisc.RunConfig(
        data=tf_instdisc.DataConfig(dataset="cifar10"),
        optimizer=tf_instdisc.OptimizerConfig(epochs=30, schedule="cosine"),
    )
    ```

    Attributes:
        data: The images and their size.
        augmentation: The random changes to each training image.
        encoder: The network.
        method: The objective and the memory bank.
        optimizer: Epochs, batches and learning rates.
        training: Seed, monitoring, checkpoints and devices.

    Raises:
        UsageError: If a setting is unknown, out of range, or cannot be
            combined with another one.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augmentation: AugmentationConfig = dataclasses.field(
        default_factory=AugmentationConfig
    )
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    method: MethodConfig = dataclasses.field(default_factory=MethodConfig)
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=OptimizerConfig
    )
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        require_image_size(
            self.encoder.backbone,
            self.data.image_size,
            self.encoder.stem,
            self.data.train_image_size,
        )
        is_auto = self.encoder.precision == "auto"
        if is_auto and self.training.distribution == "multi_worker":
            raise UsageError(
                "`precision` 'auto' is chosen by a trial on one host, and all "
                "hosts need the same. Received: precision=auto, "
                "distribution=multi_worker. Give a precision."
            )
        if self.training.init_run and self.encoder.init_encoder:
            raise UsageError(
                "Give either `init_run`, which keeps the rows and ids of its "
                "images, or `init_encoder`. Received: init_run="
                f"{self.training.init_run} and init_encoder="
                f"{self.encoder.init_encoder}"
            )

        begins_trained = self.training.init_run or self.encoder.init_encoder
        if not self.optimizer.epochs and not begins_trained:
            raise UsageError(
                "`epochs` must be at least 1 unless `init_encoder` or "
                "`init_run` gives a trained network. Received: epochs=0"
            )

    def flags(self) -> dict[str, str]:
        """Returns the settings as text by flag name, without None."""
        texts = {}
        for group in dataclasses.fields(self):
            texts.update(to_texts(getattr(self, group.name)))
        return texts

    def flagfile(self) -> str:
        """Returns a flagfile of the settings, for `--flagfile`."""
        lines = [f"--{name}={text}" for name, text in self.flags().items()]
        return "\n".join(lines) + "\n"


def at_train_size(config: RunConfig) -> RunConfig:
    """Returns the configuration of the network during training.

    Its input has the size of the training crops, and its stem is unchanged.
    """
    data, encoder = config.data, config.encoder
    size = data.train_image_size or data.image_size
    if encoder.init_encoder is None:
        stem = encoder.stem or default_stem(data.image_size)
        encoder = dataclasses.replace(encoder, stem=stem)
    data = dataclasses.replace(data, image_size=size)
    return dataclasses.replace(config, data=data, encoder=encoder)


def group_kinds() -> dict[str, type]:
    """Returns the classes of the groups of `RunConfig` by name, in order."""
    kinds = typing.get_type_hints(RunConfig)
    return {f.name: kinds[f.name] for f in dataclasses.fields(RunConfig)}


def from_json(content: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """Creates a configuration from its fields as JSON holds them.

    The inverse of `dataclasses.asdict`.

    Raises:
        UsageError: If a setting is unknown or out of range.
    """
    groups = {}
    for group, kind in group_kinds().items():
        values = dict(content.get(group, {}))
        names = {field.name for field in dataclasses.fields(kind)}
        if unknown := sorted(set(values) - names):
            raise UsageError(
                f"The settings in `{group}` must be known. Received: "
                f"{', '.join(unknown)}. Use the version of tf_instdisc that "
                "wrote them."
            )
        groups[group] = kind(**values)
    return RunConfig(**groups)


def from_flagfile(*texts: str) -> RunConfig:
    """Reads the settings in the text of flagfiles; the last one counts.

    Flags that are not settings of a run are ignored.

    Raises:
        UsageError: If a value is out of range.
    """
    return from_flags(read_flagfile("\n".join(texts)))


def from_flags(values: Mapping[str, str]) -> RunConfig:
    """Reads the settings in flags by name, as text; ignores other flags.

    Raises:
        UsageError: If a value is out of range.
    """
    return RunConfig(
        **{
            group: from_texts(kind, values)
            for group, kind in group_kinds().items()
        }
    )


def differences(
    old: RunConfig, new: RunConfig
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """Compares the settings of a run with those to continue it with.

    Returns:
        Old and new values by name: of settings that may change, and of
        settings that must not. Settings without effect on the outcome are
        left out.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    refused: dict[str, tuple[Any, Any]] = {}
    for group in dataclasses.fields(RunConfig):
        pair = getattr(old, group.name), getattr(new, group.name)
        for field in dataclasses.fields(pair[0]):
            before, after = (getattr(side, field.name) for side in pair)
            if field.name == "image_key":  # None is TFDS' usual name.
                before, after = before or "image", after or "image"
            fixed = _FIXED.get(group.name, (field.name,))
            if before == after or field.name not in fixed:
                continue
            found = changed if field.name in _CHANGEABLE else refused
            found[field.name] = before, after
    return changed, refused
