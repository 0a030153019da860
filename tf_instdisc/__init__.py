"""Instance discrimination for TensorFlow and Keras 3 (arXiv 1805.01978)."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # For editors and type checkers.
    from tf_instdisc.config import (
        AugmentationConfig,
        DataConfig,
        EncoderConfig,
        MethodConfig,
        OptimizerConfig,
        RunConfig,
        TrainingConfig,
    )
    from tf_instdisc.data.augment import Augmentation
    from tf_instdisc.data.folder import folder_source
    from tf_instdisc.data.pipeline import (
        evaluation_dataset,
        steps_per_epoch,
        training_dataset,
    )
    from tf_instdisc.data.sources import array_source
    from tf_instdisc.data.tfds_source import tfds_source
    from tf_instdisc.evaluation.evaluate import evaluate
    from tf_instdisc.evaluation.fine_tuning_protocol import FineTuneOptions
    from tf_instdisc.evaluation.knn_protocol import KNNOptions
    from tf_instdisc.evaluation.linear_protocol import LinearOptions
    from tf_instdisc.evaluation.svm_protocol import SVMOptions
    from tf_instdisc.method.encoders import build_encoder
    from tf_instdisc.method.model import InstanceDiscrimination
    from tf_instdisc.portable import save_encoder
    from tf_instdisc.retrieval.votes import knn_accuracy
    from tf_instdisc.run import (
        Run,
        save_run,
        train,
    )
    from tf_instdisc.runs.embedding import embed
    from tf_instdisc.runs.load import load_encoder
    from tf_instdisc.training.callbacks import KNNMonitor
    from tf_instdisc.training.health import BankHealth

# The same names, by module.
_PUBLIC = {
    name: module
    for module, names in {
        "config": "AugmentationConfig DataConfig EncoderConfig MethodConfig "
        "OptimizerConfig RunConfig TrainingConfig",
        "data.augment": "Augmentation",
        "data.folder": "folder_source",
        "data.pipeline": "evaluation_dataset steps_per_epoch training_dataset",
        "data.sources": "array_source",
        "data.tfds_source": "tfds_source",
        "evaluation.evaluate": "evaluate",
        "evaluation.fine_tuning_protocol": "FineTuneOptions",
        "evaluation.knn_protocol": "KNNOptions",
        "evaluation.linear_protocol": "LinearOptions",
        "evaluation.svm_protocol": "SVMOptions",
        "method.encoders": "build_encoder",
        "method.model": "InstanceDiscrimination",
        "portable": "save_encoder",
        "retrieval.votes": "knn_accuracy",
        "run": "Run save_run train",
        "runs.embedding": "embed",
        "runs.load": "load_encoder",
        "training.callbacks": "KNNMonitor",
        "training.health": "BankHealth",
    }.items()
    for name in names.split()
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used.

    This keeps `import tf_instdisc` and the commands' `--help` fast.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tf_instdisc' has no attribute {name!r}")
    module = importlib.import_module(f"tf_instdisc.{_PUBLIC[name]}")
    return getattr(module, name)


def _register() -> None:
    """Registers what `keras.saving.load_model` looks for, if Keras is imported.

    If Keras is imported later, the first use of `InstanceDiscrimination`
    registers it.
    """
    keras = sys.modules.get("keras")
    if keras is not None and keras.backend.backend() == "tensorflow":
        for module in ("method.model", "training.optimizer"):
            importlib.import_module(f"tf_instdisc.{module}")


_register()


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
