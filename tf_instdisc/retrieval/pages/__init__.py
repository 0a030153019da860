"""Pictures and pages about a run; they need the extra `report`."""

import importlib.util

from tf_instdisc.errors import UsageError

_missing = [
    name
    for name in ("PIL", "bokeh", "jinja2", "matplotlib")
    if importlib.util.find_spec(name) is None
]


class MissingExtraError(UsageError):
    """The packages of an extra are not installed."""


if _missing:
    raise MissingExtraError(
        "Pages and pictures need the extra 'report'. Received: no "
        f"{', no '.join(_missing)}. Install it: "
        "pip install 'tf_instdisc[report]'"
    )
