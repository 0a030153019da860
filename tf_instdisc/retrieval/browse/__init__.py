"""A local page to browse images by their neighbors; needs extra `browse`."""

import importlib.util

from tf_instdisc.errors import UsageError

_missing = [
    name
    for name in ("starlette", "uvicorn")
    if importlib.util.find_spec(name) is None
]
if _missing:
    raise UsageError(
        "The page to browse needs the extra 'browse'. Received: no "
        f"{', no '.join(_missing)}. Install it: "
        "pip install 'tf_instdisc[browse]'"
    )
