"""The settings of a run, as frozen dataclasses.

The commands derive their flags from the fields, `run.json` stores them, and
any code that needs a setting of a run reads it from the run's `RunConfig`.
The package imports nothing heavy.
"""

from tf_instdisc.config.data import AugmentationConfig, DataConfig
from tf_instdisc.config.encoder import EncoderConfig
from tf_instdisc.config.method import MethodConfig, OptimizerConfig
from tf_instdisc.config.run import RunConfig, TrainingConfig

__all__ = [
    "AugmentationConfig",
    "DataConfig",
    "EncoderConfig",
    "MethodConfig",
    "OptimizerConfig",
    "RunConfig",
    "TrainingConfig",
]
