"""Fine-tuning of the whole network with some or all of the labels."""

import dataclasses
from typing import TYPE_CHECKING

from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.config.method import OPTIMIZERS, SCHEDULES
from tf_instdisc.evaluation.protocol import Measurement, Protocol, seed_setting
from tf_instdisc.text import listed

if TYPE_CHECKING:
    from tf_instdisc.evaluation.inputs import EvaluationInputs


@dataclasses.dataclass(frozen=True)
class FineTuneOptions(Settings):
    """Fine-tuning

    ```python
    run = tf_instdisc.Run("runs/photos")
    options = tf_instdisc.FineTuneOptions(fractions=(0.1,), epochs=20)
    run.evaluate(semi_supervised=options)
    ```

    The defaults (70 epochs of SGD with a learning rate of 0.01, divided by ten
    after 30 and 60 epochs) are the paper's as we remember them; they were not
    checked against it. The pre-trained network and the one from scratch are
    trained with the same images, updates and augmentation.
    """

    fractions: tuple[float, ...] = setting(
        (0.01, 0.02, 0.04, 0.1, 0.2),
        "semi_supervised: fractions of the labels.",
        least=0,
        excludes_least=True,
        most=1,
        is_filled=True,
    )
    scratch: bool = setting(
        True, "Also train the same network from new weights."
    )
    epochs: int = setting(
        70,
        "Epochs over the labeled images.",
        least=1,
        flag="finetune_epochs",
    )
    min_updates: int = setting(
        0,
        "Minimum number of updates; the schedule is stretched to fit.",
        least=0,
        flag="finetune_min_updates",
    )
    batch_size: int = setting(
        256, "Images per batch.", least=1, flag="finetune_batch_size"
    )
    optimizer: str = setting(
        "sgd", "Optimizer.", choices=OPTIMIZERS, flag="finetune_optimizer"
    )
    learning_rate: float = setting(
        0.01, "Peak learning rate.", least=0, flag="finetune_learning_rate"
    )
    schedule: str = setting(
        "steps",
        "Learning rate schedule.",
        choices=SCHEDULES,
        flag="finetune_schedule",
    )
    schedule_epochs: tuple[int, ...] = setting(
        (30, 60),
        "Epochs after which the rate falls under `steps`.",
        is_rising=True,
        flag="finetune_schedule_epochs",
    )
    weight_decay: float = setting(
        1e-4,
        "Weight decay as in PyTorch.",
        least=0,
        flag="finetune_weight_decay",
    )
    seed: int = seed_setting()


class SemiSupervised(Protocol):
    """Top-1 and top-5 accuracy after fine-tuning with a few labels."""

    name = "semi_supervised"
    options_kind = FineTuneOptions
    options: FineTuneOptions

    @property
    def fractions(self) -> tuple[float, ...]:
        """The fractions of the labels to train with."""
        return self.options.fractions

    def check(self, inputs: "EvaluationInputs") -> None:
        labels = set(inputs.labels.tolist())
        names = inputs.source.class_names or ()
        lacking = [name for i, name in enumerate(names) if i not in labels]
        if lacking:
            print(
                f"fine-tuning: {inputs.source.name} has no image of "
                f"{listed(lacking, 5)} to learn from",
                flush=True,
            )

    def measure(self, inputs: "EvaluationInputs") -> list[Measurement]:
        from tf_instdisc.data.subset import subset
        from tf_instdisc.evaluation import network_tuning

        options = self.options
        tuning = network_tuning.NetworkTuning(inputs, options)
        found: list[Measurement] = []
        for is_pretrained in (True, False)[: 1 + options.scratch]:
            for fraction in self.fractions:
                ids = network_tuning.class_balanced_ids(
                    inputs.source, fraction, options.seed
                )
                start = "pre-trained" if is_pretrained else "from scratch"
                title = f"{100 * fraction:g}% of the labels, {start}"
                tuning.train(subset(inputs.source, ids), is_pretrained)
                values = tuning.accuracies(inputs.images(inputs.test_source))
                print(
                    f"{title}, {len(ids)} images: top-1 "
                    f"{100 * values['top1']:.1f}",
                    flush=True,
                )
                found += self.accuracies(
                    inputs,
                    title,
                    values,
                    top5=fraction if is_pretrained else None,
                )
        return found


class FineTuning(SemiSupervised):
    """Top-1 and top-5 accuracy after fine-tuning with all labels."""

    name = "finetune"
    fractions = (1.0,)
