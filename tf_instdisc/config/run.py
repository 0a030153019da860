"""Settings of a run and its monitoring, and all settings together."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from tf_instdisc.config.data import AugmentationConfig, DataConfig
from tf_instdisc.config.encoder import EncoderConfig, require_image_size
from tf_instdisc.config.fields import (
    check,
    from_texts,
    read_flagfile,
    setting,
    to_json,
    to_texts,
)
from tf_instdisc.config.method import MethodConfig, OptimizerConfig
from tf_instdisc.errors import UsageError

DISTRIBUTIONS = ("auto", "one_device", "mirrored", "multi_worker")

# What a run that goes on may change; of the others below, what decides its
# outcome must stay.
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
)
_FIXED = {
    "data": ("image_size", "train_image_size"),
    "training": ("init_run", "seed"),
}


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Run and monitoring"""

    init_run: str | None = setting(
        None,
        "A finished run, or what instdisc-update made of it: this run begins "
        "with its encoder and rows, and keeps the ids of its images.",
        is_path=True,
    )
    seed: int = setting(
        0,
        "Seeds weights, bank, shuffling, augmentation and negatives.",
        least=0,
        most=2**31 - 1,
    )
    num_neighbors: int = setting(200, "Neighbors that vote in kNN.", least=1)
    knn_every: int = setting(1, "Epochs between two kNN measurements.", least=1)
    keep_best: bool = setting(
        False,
        "Keep the encoder of the epoch with the best kNN top-1 beside the "
        "last one, as encoder_best.keras. Needs kNN.",
    )
    knn_encode: bool = setting(
        False,
        "Measure kNN also with the training images encoded by the present "
        "encoder.",
    )
    baselines: bool = setting(
        False,
        "Compare at the end with the untrained encoder and with raw pixels.",
    )
    grid_every: int = setting(
        0,
        "Epochs between two neighbor grids in TensorBoard, which at the end "
        "also gets the embedding projector; 0 for none. Needs the extra "
        "'report'.",
        least=0,
    )
    checkpoint_minutes: float = setting(
        15.0,
        "Minutes between two checkpoints inside an epoch; each epoch ends "
        "with one.",
        least=0,
    )
    keep_checkpoints: int = setting(3, "Checkpoints that stay.", least=1)
    distribution: str = setting(
        "auto",
        "auto: all visible GPUs of this host. multi_worker: the hosts in the "
        "environment's TF_CONFIG, each of which is given the same command.",
        choices=DISTRIBUTIONS,
    )
    logical_cpus: int = setting(
        1,
        "Splits the CPU into this many devices, to try "
        "--distribution=mirrored without GPUs.",
        least=1,
    )

    def __post_init__(self) -> None:
        check(self)


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
        data: Which images, and at what size.
        augmentation: What is drawn for each training image.
        encoder: The network.
        method: Objective and memory bank.
        optimizer: Epochs, batches, rates.
        training: Seed, monitoring, checkpoints, devices.

    Raises:
        UsageError: If a setting is unknown, out of range, or does not go
            with another one.
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

    def flags(self) -> dict[str, str]:
        """The settings as flags by name, as text; None is left out."""
        texts = {}
        for group in dataclasses.fields(self):
            texts.update(to_texts(getattr(self, group.name)))
        return texts

    def flagfile(self) -> str:
        """A flagfile of the settings, for people and for `--flagfile`."""
        lines = [f"--{name}={text}" for name, text in self.flags().items()]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The settings by group and name, for `json.dumps`."""
        return {
            group.name: to_json(getattr(self, group.name))
            for group in dataclasses.fields(self)
        }


def group_kinds() -> dict[str, type]:
    """The classes of the groups of `RunConfig`, by name and in its order."""
    kinds = typing.get_type_hints(RunConfig)
    return {f.name: kinds[f.name] for f in dataclasses.fields(RunConfig)}


def from_json(content: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """The settings of `RunConfig.to_json`.

    Raises:
        UsageError: If a setting is unknown or out of range.
    """
    groups = {}
    for group, kind in group_kinds().items():
        values = dict(content.get(group, {}))
        names = {field.name for field in dataclasses.fields(kind)}
        if unknown := sorted(set(values) - names):
            raise UsageError(
                f"The settings in `{group}` must be known ones. Received: "
                f"{', '.join(unknown)}. Use the version of tf_instdisc that "
                "wrote them."
            )
        groups[group] = kind(**values)
    return RunConfig(**groups)


def from_flagfile(*texts: str) -> RunConfig:
    """The settings in the text of flagfiles; the last of a name counts.

    Flags that are no settings of a run are ignored.

    Raises:
        UsageError: If a value is out of range.
    """
    return from_flags(read_flagfile("\n".join(texts)))


def from_flags(values: Mapping[str, str]) -> RunConfig:
    """The settings in flags by name, as text; other flags are ignored.

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
    """What differs between a run and the settings that it is to go on with.

    Returns:
        Old and new values by name: of settings that may change, and of
        settings that must not. What does not bear on the outcome is left out.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    refused: dict[str, tuple[Any, Any]] = {}
    for group in dataclasses.fields(RunConfig):
        pair = getattr(old, group.name), getattr(new, group.name)
        for field in dataclasses.fields(pair[0]):
            before, after = (getattr(side, field.name) for side in pair)
            fixed = _FIXED.get(group.name, (field.name,))
            if before == after or field.name not in fixed:
                continue
            found = changed if field.name in _CHANGEABLE else refused
            found[field.name] = before, after
    return changed, refused
