"""Clients of a served model: gRPC (`GrpcClient`) and REST (`RestClient`)."""

import importlib
from typing import Any

_PUBLIC = {
    "ClientOptions": "serving.client.client",
    "GrpcClient": "serving.client.over_grpc",
    "RestClient": "serving.client.over_rest",
    "ServingError": "errors",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Imports a client when it is first used, as gRPC needs TensorFlow."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"tf_instdisc.{_PUBLIC[name]}")
    return getattr(module, name)
