"""Everything that a run can be told, in frozen dataclasses.

Commands make their flags from the fields, `run.json` holds them, and whatever
needs a setting of a run reads it from its `RunConfig`. It imports nothing
heavy.
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
