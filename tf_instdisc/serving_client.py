"""Clients of a served model: gRPC (`GrpcClient`) and REST (`RestClient`).

The name under which users import what is in `tf_instdisc.serving.client`.
"""

from typing import Any

from tf_instdisc.serving import client

__all__ = client.__all__


def __getattr__(name: str) -> Any:
    return getattr(client, name)
