"""Linear classifiers on frozen layers."""

import dataclasses
from typing import TYPE_CHECKING

from tf_instdisc.config.encoder import LAYERS
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.evaluation.protocol import (
    Measurement,
    Protocol,
    baselines_setting,
    num_features_setting,
    seed_setting,
)

if TYPE_CHECKING:
    from tf_instdisc.evaluation.features import Activations, Layer
    from tf_instdisc.evaluation.inputs import EvaluationInputs


@dataclasses.dataclass(frozen=True)
class LinearOptions(Settings):
    """Linear classifiers

    ```python
    run = tf_instdisc.Run("runs/photos")
    run.evaluate(
        linear=tf_instdisc.LinearOptions(layers=("conv5",), epochs=10)
    )
    ```

    The paper follows the protocol of split-brain autoencoders (arXiv
    1611.09842) but gives no learning rates, and the authors' code contains no
    linear classifiers. The defaults are those of DeepCluster's
    `eval_linear.py`, which pools five layers to between 9,216 and 9,600
    values: SGD with a learning rate of 0.01, momentum 0.9, weight decay 1e-4,
    batch size 256 and 90 epochs. The learning rate is divided by ten after 30
    and 60 epochs, as in OpenSelfSup's `r50_multihead.py`. CMC's
    `eval_moco_ins.py` trains on one layer with a learning rate of 0.1, divided
    by five after 30, 40 and 50 of 60 epochs, and no weight decay.
    """

    layers: tuple[str, ...] | None = setting(
        None,
        "Layers to classify; by default all available layers.",
        choices=LAYERS,
        is_filled=True,
        flag="linear_layers",
    )
    num_features: int = num_features_setting()
    epochs: int = setting(
        90, "Number of epochs.", least=1, flag="linear_epochs"
    )
    batch_size: int = setting(
        256, "Images per batch.", least=1, flag="linear_batch_size"
    )
    learning_rate: float = setting(
        0.01, "Initial learning rate.", least=0, flag="linear_learning_rate"
    )
    schedule_epochs: tuple[int, ...] = setting(
        (30, 60),
        "Epochs after which the learning rate is divided by ten.",
        is_rising=True,
        flag="linear_schedule_epochs",
    )
    weight_decay: float = setting(
        1e-4,
        "Weight decay as in PyTorch's SGD, applied to the bias as well.",
        least=0,
        flag="linear_weight_decay",
    )
    baselines: bool = baselines_setting()
    seed: int = seed_setting()


class Linear(Protocol):
    """Top-1 and top-5 accuracy of a linear classifier on each layer."""

    name = "linear"
    options_kind = LinearOptions
    options: LinearOptions

    def check(self, inputs: "EvaluationInputs") -> None:
        from tf_instdisc.evaluation import features

        if self.options.layers is not None:
            features.require_layers(
                inputs.encoder, self.options.layers, "layers", "linear_layers"
            )
        layers = self._layers(inputs)
        for activations in self._activations(inputs).values():
            activations.announce(layers)

    def measure(self, inputs: "EvaluationInputs") -> list[Measurement]:
        """Measures the run.

        Raises:
            StorageError: If there is not enough disk space for the
                activations.
        """
        from tf_instdisc.evaluation import linear_classifier

        found: list[Measurement] = []
        for suffix, activations in self._activations(inputs).items():
            for layer in self._layers(inputs):
                train, test = activations.of(layer)
                values = linear_classifier.accuracy(train, test, self.options)
                print(
                    f"linear classifier on {layer.name}{suffix}: top-1 "
                    f"{100 * values['top1']:.1f}",
                    flush=True,
                )
                found += self.accuracies(
                    inputs,
                    f"linear, {layer.name}{suffix}",
                    values,
                    top1=None if suffix else layer.name,
                )
        return found

    def _layers(self, inputs: "EvaluationInputs") -> "list[Layer]":
        from tf_instdisc.evaluation import features

        names = self.options.layers or features.available_layers(inputs.encoder)
        return [
            features.layer(name, self.options.num_features)
            for name in dict.fromkeys(names)
        ]

    def _activations(
        self, inputs: "EvaluationInputs"
    ) -> "dict[str, Activations]":
        """Returns what is measured, by the end of its name."""
        found = {"": inputs.activations}
        if self.options.baselines:
            found[", untrained"] = inputs.untrained(self.options.seed)
        return found
