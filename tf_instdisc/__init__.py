"""Instance discrimination for TensorFlow and Keras 3 (arXiv 1805.01978)."""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "TrainingConfig": "config",
    "RunConfig": "config",
    "OptimizerConfig": "config",
    "MethodConfig": "config",
    "EncoderConfig": "config",
    "DataConfig": "config",
    "AugmentationConfig": "config",
    "Augmentation": "data.augment",
    "BankHealth": "training.health",
    "FineTuneOptions": "evaluation.fine_tuning_protocol",
    "InstanceDiscrimination": "method.model",
    "KNNMonitor": "training.callbacks",
    "KNNOptions": "evaluation.knn_protocol",
    "LinearOptions": "evaluation.linear_protocol",
    "SVMOptions": "evaluation.svm_protocol",
    "TransferOptions": "evaluation.transfer_protocol",
    "array_source": "data.sources",
    "build_encoder": "method.encoders",
    "embed": "runs.embedding",
    "evaluate": "evaluation.evaluate",
    "evaluation_dataset": "data.pipeline",
    "folder_source": "data.folder",
    "knn_accuracy": "retrieval.neighbors",
    "load_encoder": "runs.load",
    "save_encoder": "method.encoders.portable",
    "steps_per_epoch": "data.pipeline",
    "tfds_source": "data.tfds_source",
    "train": "training.train",
    "training_dataset": "data.pipeline",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    """Imports a public name when it is first used.

    The commands' `--help` and `import tf_instdisc` so stay quick.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tf_instdisc' has no attribute {name!r}")
    module = importlib.import_module(f"tf_instdisc.{_PUBLIC[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
