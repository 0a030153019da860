"""What a protocol of evaluation is, and the settings that several have."""

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation.measurement import Measurement

if TYPE_CHECKING:
    from tf_instdisc.evaluation.inputs import RunImages


class Protocol(abc.ABC):
    """A protocol of evaluation, with the options that it is given.

    To add one, add a file to this package whose name ends in `_protocol.py`
    and in which a subclass stands. Nothing else changes: `instdisc-evaluate`
    finds it, and has its name and its flags.

    ```python
    @dataclasses.dataclass(frozen=True)
    class MajorityOptions:
        \"""Most frequent class\"""

        num_guesses: int = setting(1, "Classes that are guessed.", least=1)

        def __post_init__(self):
            check(self)


    class Majority(Protocol):
        name = "majority"
        options_kind = MajorityOptions

        def measure(self, inputs):
            counts = collections.Counter(inputs.labels.tolist())
            guesses = counts.most_common(self.options.num_guesses)
            ...
            return [Measurement(self.name, "most frequent", "top1", value)]
    ```

    Such a file is imported for `--help` too. It imports TensorFlow, Keras and
    NumPy inside of methods, or leaves them to a module of another name beside
    it.

    Args:
        options: An object of `options_kind`.

    Attributes:
        name: What `--protocol` calls it, and under which its results stand.
        options_kind: A frozen dataclass whose fields are made by `setting`,
            or hold the options of other protocols. The first line of its
            docstring is the title of its flags. Protocols may share a class.
        options: The options.

    Raises:
        UsageError: If the options are of another class.
    """

    name: ClassVar[str]
    options_kind: ClassVar[type[Settings]]

    def __init__(self, options: Any):
        if not isinstance(options, self.options_kind):
            raise UsageError(
                f"The options of the protocol {self.name} must be "
                f"{self.options_kind.__name__}. Received: {options!r}"
            )
        self.options = options

    def open(self, images: "RunImages") -> Any:
        """Opens what is measured on.

        Args:
            images: The run, and which images stand in place of its own.

        Returns:
            What `check` and `measure` are given: by default the
            `EvaluationInputs` that all protocols of an evaluation share.

        Raises:
            RunDirectoryError: If the run has not finished.
            UsageError: If the images cannot be measured on.
        """
        return images.labeled

    def check(self, inputs: Any) -> None:
        """Checks that the options fit the run and its images.

        An evaluation checks all protocols before it measures the first.

        Args:
            inputs: What `open` has given.

        Raises:
            UsageError: If they do not.
        """
        del inputs

    @abc.abstractmethod
    def measure(self, inputs: Any) -> Sequence[Measurement]:
        """Measures the run.

        Args:
            inputs: What `open` has given, after `check`.

        Returns:
            What was measured, in the order of the table.
        """


def seed_setting() -> Any:
    """The field of the flag --seed."""
    return setting(
        0, "Seeds weights, order and what is drawn.", least=0, most=2**31 - 1
    )


def baselines_setting() -> Any:
    """The field of the flag --baselines."""
    return setting(False, "knn, linear: measure the untrained network too.")


def num_features_setting() -> Any:
    """The field of the flag --linear_features."""
    return setting(
        9000,
        "About how many numbers a layer is pooled to.",
        least=1,
        flag="linear_features",
    )


def keep_features_setting() -> Any:
    """The field of the flag --keep_features."""
    return setting(
        True,
        "Keep the layers' activations in the run's directory for the next "
        "evaluation.",
    )
