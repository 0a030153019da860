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

# The modules of the same names.
_PUBLIC = {
    "Augmentation": "data.augment",
    "AugmentationConfig": "config",
    "BankHealth": "training.health",
    "DataConfig": "config",
    "EncoderConfig": "config",
    "FineTuneOptions": "evaluation.fine_tuning_protocol",
    "InstanceDiscrimination": "method.model",
    "KNNMonitor": "training.callbacks",
    "KNNOptions": "evaluation.knn_protocol",
    "LinearOptions": "evaluation.linear_protocol",
    "MethodConfig": "config",
    "OptimizerConfig": "config",
    "Run": "run",
    "RunConfig": "config",
    "SVMOptions": "evaluation.svm_protocol",
    "TrainingConfig": "config",
    "array_source": "data.sources",
    "build_encoder": "method.encoders",
    "embed": "runs.embedding",
    "evaluate": "evaluation.evaluate",
    "evaluation_dataset": "data.pipeline",
    "folder_source": "data.folder",
    "knn_accuracy": "retrieval.votes",
    "load_encoder": "runs.load",
    "save_encoder": "portable",
    "save_run": "run",
    "steps_per_epoch": "data.pipeline",
    "tfds_source": "data.tfds_source",
    "train": "run",
    "training_dataset": "data.pipeline",
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
    """Registers what `keras.saving.load_model` looks for, if Keras is there.

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
