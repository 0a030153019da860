"""A local page to browse images by their neighbors; needs extra `browse`."""

from tf_instdisc.errors import require_extra

require_extra("browse", "starlette", "uvicorn")
