"""Linear classifiers on frozen layers."""

import dataclasses
from typing import TYPE_CHECKING

from tf_instdisc.config.encoder import LAYERS
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.evaluation.protocol import (
    Measurement,
    Protocol,
    baselines_setting,
    keep_features_setting,
    num_features_setting,
    seed_setting,
)

if TYPE_CHECKING:
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
    momentum: float = setting(
        0.9, "Momentum of SGD.", least=0, most=0.9999, flag="linear_momentum"
    )
    weight_decay: float = setting(
        1e-4,
        "Weight decay as in PyTorch's SGD, applied to the bias as well.",
        least=0,
        flag="linear_weight_decay",
    )
    baselines: bool = baselines_setting()
    keep_features: bool = keep_features_setting()
    seed: int = seed_setting()


class Linear(Protocol):
    """Top-1 and top-5 accuracy of a linear classifier on each layer."""

    name = "linear"
    options_kind = LinearOptions
    options: LinearOptions

    def check(self, inputs: "EvaluationInputs") -> None:
        from tf_instdisc.evaluation import features

        if self.options.layers is not None:
            features.require_layers(inputs.encoder, self.options.layers)

    def layers(self, inputs: "EvaluationInputs") -> dict[int, tuple[str, ...]]:
        if not self.options.keep_features:
            return {}
        return {self.options.num_features: self._layers(inputs)}

    def _layers(self, inputs: "EvaluationInputs") -> tuple[str, ...]:
        from tf_instdisc.evaluation import features

        known = features.available_layers(inputs.encoder)
        return self.options.layers or known

    def measure(self, inputs: "EvaluationInputs") -> list[Measurement]:
        """Measures the run.

        Raises:
            StorageError: If there is not enough disk space for the
                activations.
        """
        from tf_instdisc.evaluation import linear_classifier
        from tf_instdisc.evaluation.untrained import encoder_like

        options = self.options
        layers = self._layers(inputs)
        encoders = {"": inputs.encoder}
        if options.baselines:
            encoders[", untrained"] = encoder_like(
                inputs.encoder, inputs.source, options.seed
            )
        found: list[Measurement] = []
        for suffix, encoder in encoders.items():
            with inputs.features(encoder, layers, options) as (train, test):
                for layer in layers:
                    values = linear_classifier.accuracy(
                        train, test, layer, options
                    )
                    print(
                        f"linear classifier on {layer}{suffix}: top-1 "
                        f"{100 * values['top1']:.1f}",
                        flush=True,
                    )
                    found += self.accuracies(
                        inputs,
                        f"linear, {layer}{suffix}",
                        values,
                        top1=None if suffix else layer,
                    )
        return found
