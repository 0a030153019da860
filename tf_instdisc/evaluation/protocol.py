"""The base class of evaluation protocols, and their discovery."""

import abc
import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tf_instdisc import evaluation
from tf_instdisc.config.fields import Settings, require_choice, setting
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation import paper

if TYPE_CHECKING:
    from tf_instdisc.evaluation.inputs import EvaluationInputs


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One value that a protocol measured.

    Attributes:
        protocol: Name of the protocol, such as `"knn"` or `"linear"`.
        name: What was measured, such as `"linear, conv3"`.
        metric: Name of the metric, such as `"top1"` or `"voc_map"`.
        value: A fraction in [0, 1].
        paper: The paper's value, also a fraction; None if there is none.
        paper_setting: The network and data of the paper's value.
    """

    protocol: str
    name: str
    metric: str
    value: float
    paper: float | None = None
    paper_setting: str = ""


class Protocol(abc.ABC):
    """An evaluation protocol with its options.

    To add one, add a file to this package whose name ends in `_protocol.py`
    and which defines a subclass. Nothing else has to be changed:
    `instdisc-evaluate` finds the class and offers its name and its flags.

    ```python
    @dataclasses.dataclass(frozen=True)
    class MajorityOptions(Settings):
        \"""Most frequent class\"""

        num_guesses: int = setting(1, "Classes that are guessed.", least=1)


    class Majority(Protocol):
        name = "majority"
        options_kind = MajorityOptions

        def measure(self, inputs):
            counts = collections.Counter(inputs.labels.tolist())
            guesses = counts.most_common(self.options.num_guesses)
            ...
            return [Measurement(self.name, "most frequent", "top1", value)]
    ```

    Such a file is also imported for `--help`. Therefore, it should import
    TensorFlow, Keras and NumPy only inside methods, or in a separate module
    whose name has another ending.

    Args:
        options: An object of `options_kind`.

    Attributes:
        name: The name of the protocol in `--protocol` and in the results.
        reads_labels: Whether it measures the labeled images of its inputs.
        options_kind: A frozen dataclass whose fields are made by `setting`,
            or hold the options of other protocols. The first line of its
            docstring is the heading of its flags. Several protocols may use
            the same class.
        options: The options.

    Raises:
        UsageError: If `options` is not an `options_kind`.
    """

    name: ClassVar[str]
    reads_labels: ClassVar[bool] = True
    options_kind: ClassVar[type[Settings]]

    def __init__(self, options: Any):
        if not isinstance(options, self.options_kind):
            raise UsageError(
                f"The options of the protocol {self.name} must be "
                f"{self.options_kind.__name__}. Received: {options!r}"
            )
        self.options = options

    def check(self, inputs: "EvaluationInputs") -> None:
        """Checks that the options fit the run and its images.

        All protocols are checked before the first measurement begins. A
        protocol also announces the layers that it reads, so that those of all
        protocols are computed in one pass over the images.

        Raises:
            UsageError: If the options do not fit.
        """
        del inputs

    @abc.abstractmethod
    def measure(self, inputs: "EvaluationInputs") -> Sequence[Measurement]:
        """Measures the run.

        Args:
            inputs: The run and its images, which `check` has accepted.

        Returns:
            The measurements, in the order of the table.
        """

    def accuracies(
        self,
        inputs: "EvaluationInputs",
        title: str,
        values: Mapping[str, float],
        **paper_names: str | float | None,
    ) -> list[Measurement]:
        """Returns accuracies beside those of the paper.

        Args:
            inputs: The run and the images that were measured.
            title: What was measured.
            values: The accuracies by metric, in [0, 1].
            **paper_names: For each metric, the name under which
                `paper.paper_value` finds the paper's value. Metrics without a
                paper value are omitted.
        """
        found = []
        for metric, value in values.items():
            number = paper.PaperNumber()
            if (name := paper_names.get(metric)) is not None:
                number = paper.paper_value(
                    self.name, name, inputs.run.read_config(), inputs.config
                )
            found.append(Measurement(self.name, title, metric, value, *number))
        return found


def protocols() -> dict[str, type[Protocol]]:
    """Returns the protocols of all `*_protocol.py` files, by name.

    TensorFlow is not imported.
    """
    modules = [
        importlib.import_module(f"{evaluation.__name__}.{module.name}")
        for module in pkgutil.iter_modules(evaluation.__path__)
        if module.name.endswith("_protocol")
    ]
    return {
        kind.name: kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, Protocol)
        and kind.__module__ == module.__name__
        and not kind.__name__.startswith("_")
    }


def find(name: str) -> type[Protocol]:
    """Returns the protocol with the given name.

    Raises:
        UsageError: If there is none.
    """
    known = protocols()
    require_choice("protocol", name, known)
    return known[name]


def seed_setting() -> Any:
    """Returns the field of the flag --seed."""
    return setting(
        0,
        "Random seed of the weights, the order and the draws.",
        least=0,
        most=2**31 - 1,
    )


def baselines_setting() -> Any:
    """Returns the field of the flag --baselines."""
    return setting(False, "knn, linear: also measure the untrained network.")


def num_features_setting() -> Any:
    """Returns the field of the flag --linear_features."""
    return setting(
        9000,
        "Approximate number of values to which a layer is pooled.",
        least=1,
        flag="linear_features",
    )
