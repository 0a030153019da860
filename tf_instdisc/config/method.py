"""Settings of the objective, the memory bank and the optimizer."""

import dataclasses
from typing import Any

from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError

# By optimizer: the default learning rate and weight decay.
_RATES = {"sgd": (0.03, 1e-4), "adamw": (1e-3, 0.05)}
OPTIMIZERS = tuple(_RATES)
SCHEDULES = ("constant", "steps", "cosine")
_MOMENTUM: dict[str, Any] = {"least": 0, "most": 1, "excludes_most": True}


@dataclasses.dataclass(frozen=True)
class MethodConfig(Settings):
    """Objective and memory bank

    ```python
    method = tf_instdisc.MethodConfig(objective="softmax", temperature=0.1)
    ```
    """

    objective: str = setting(
        "nce",
        "Objective to minimize.",
        choices=("softmax", "nce", "info_nce", "parametric"),
    )
    num_negatives: int = setting(
        4096, "Number of negatives of nce and info_nce.", least=1
    )
    negatives: str = setting(
        "shared",
        "Whether the examples of a batch share their negatives.",
        choices=("shared", "per_example"),
    )
    temperature: float = setting(
        0.07, "Temperature of the softmax.", least=0.01, most=1
    )
    normalizer: str = setting(
        "ema",
        "Z of nce: a moving average, or the estimate of the first batch, as "
        "in the authors' code.",
        choices=("ema", "first_batch"),
    )
    normalizer_momentum: float = setting(
        0.99, "Weight of the old Z in its moving average.", **_MOMENTUM
    )
    bank_momentum: float = setting(
        0.5, "Weight of the old row in its update.", **_MOMENTUM
    )
    bank_init: str = setting(
        "random",
        "Initial rows: random, or the embeddings of the encoder before "
        "training.",
        choices=("random", "encode"),
    )
    bank_dtype: str = setting(
        "float32",
        "Data type in which the rows of the bank are stored.",
        choices=("float32", "bfloat16", "float16"),
    )
    bank_placement: str = setting(
        "device",
        "device: each GPU has a copy of the bank. sharded: the rows are "
        "divided among all GPUs of all hosts. host: one copy in the memory of "
        "each host; with shared negatives, a step transfers only the rows "
        "that it needs.",
        choices=("device", "sharded", "host"),
    )
    proximal_weight: float = setting(
        0.0,
        "Weight of the squared distance to the image's previous row.",
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective == "softmax" and self.bank_placement == "host":
            raise UsageError(
                "`objective` 'softmax' uses the whole bank in each step, and "
                "needs it on the device. Received: bank_placement='host'. Use "
                "'sharded' or 'device', or the objective 'nce' or 'info_nce'."
            )
        is_sampled = self.objective in ("nce", "info_nce")
        has_own = is_sampled and self.negatives == "per_example"
        if has_own and self.bank_placement == "sharded":
            raise UsageError(
                "`negatives` 'per_example' cannot be combined with a sharded "
                "bank, whose replicas exchange the rows of shared negatives. "
                "Received: bank_placement='sharded'. Use 'device' or 'host', "
                "or the negatives 'shared'."
            )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Settings):
    """Optimization

    ```python
    optimizer = tf_instdisc.OptimizerConfig(
        optimizer="adamw", epochs=50, schedule="cosine"
    )
    ```

    `dataclasses.replace` keeps the learning rate and the weight decay. If you
    replace the optimizer, replace them as well.
    """

    epochs: int = setting(
        200,
        "Epochs; 0 encodes the images with the network of --init_encoder or "
        "--init_run, without training it.",
        least=0,
    )
    batch_size: int = setting(256, "Images in a global batch.", least=1)
    optimizer: str = setting(
        "sgd", "Optimizer; the paper uses sgd.", choices=OPTIMIZERS
    )
    learning_rate: float = setting(
        None,
        "Highest learning rate; by default, 0.03 for sgd and 0.001 for adamw.",
        least=0,
    )
    learning_rate_scaling: str = setting(
        "none",
        "linear: --learning_rate is for 256 images per update, and is scaled "
        "in proportion to the actual number.",
        choices=("none", "linear"),
    )
    accumulate_steps: int = setting(
        1, "Steps whose gradients are averaged into one update.", least=1
    )
    schedule: str = setting(
        "steps",
        "How the learning rate decays: not at all, by a factor of ten at each "
        "of --schedule_epochs, or along a cosine to zero.",
        choices=SCHEDULES,
    )
    schedule_epochs: tuple[int, ...] = setting(
        (120, 160), "Epochs after which `steps` decays.", is_rising=True
    )
    warmup_epochs: float = setting(
        0.0,
        "Epochs in which the learning rate rises from zero; half of the run if "
        "the run has no more epochs than that.",
        least=0,
    )
    momentum: float = setting(0.9, "Momentum of SGD.", **_MOMENTUM)
    weight_decay: float = setting(
        None,
        "Weight decay as in PyTorch; with sgd it is part of the gradient. By "
        "default, 0.0001 for sgd and 0.05 for adamw.",
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("learning_rate", "weight_decay")
        for name, rate in zip(names, _RATES[self.optimizer], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, rate)
