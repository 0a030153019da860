"""An extension of Griffe: shows the values of defaults that settings define.

`temperature: float = MethodConfig.temperature` appears as `0.07`.
"""

import re
from typing import Any

import griffe

from tf_instdisc import config

_SETTING = re.compile(r"(\w+Config)\.(\w+)")


class DefaultsOfSettings(griffe.Extension):
    """Replaces defaults such as `MethodConfig.temperature` by their values."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        for parameter in func.parameters:
            match = _SETTING.fullmatch(str(parameter.default))
            if match:
                value = getattr(getattr(config, match[1]), match[2])
                parameter.default = repr(value)
