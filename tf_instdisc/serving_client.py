"""Clients of a served model: gRPC (`GrpcClient`) and REST (`RestClient`).

Users import the contents of `tf_instdisc.serving.client` by this name.
"""

from typing import Any

from tf_instdisc.serving import client

__all__ = client.__all__


def __getattr__(name: str) -> Any:
    return getattr(client, name)
