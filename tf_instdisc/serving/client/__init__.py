"""Clients of a served model over gRPC and REST."""

import importlib
from typing import Any

_PUBLIC = {
    "GrpcClient": "over_grpc",
    "RestClient": "over_rest",
    "ServingError": "client",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Imports a client when it is first used, as gRPC needs TensorFlow."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
    return getattr(module, name)
