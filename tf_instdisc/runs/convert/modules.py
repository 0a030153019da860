"""Weights of a pickled module, as in its `state_dict`."""

from collections.abc import Iterator
from typing import Any

from tf_instdisc.runs.convert.records import CheckpointError, Inert, Tensor

# No known network has more, but a hostile file may have any number.
_MAX_WEIGHTS = 10_000
_MAX_NAME = 500


def module_weights(module: Inert) -> dict[str, Tensor]:
    """Collects parameters and buffers of a module and its submodules.

    Returns:
        The tensors, by the names that PyTorch gives them.

    Raises:
        CheckpointError: If a module occurs twice in it, or there are more
            weights or longer names than in any known network.
    """
    weights: dict[str, Tensor] = {}
    seen = set()
    waiting = [("", module)]
    while waiting:
        prefix, node = waiting.pop()
        if id(node) in seen:
            raise CheckpointError("A module occurs twice in the network.")
        seen.add(id(node))
        for kind in ("_parameters", "_buffers"):
            for name, value in _named(node.state.get(kind)):
                if isinstance(value, Tensor):
                    weights[f"{prefix}{name}"] = value
                if len(weights) > _MAX_WEIGHTS:
                    raise CheckpointError("The network has too many weights.")
        for name, child in _named(node.state.get("_modules")):
            if isinstance(child, Inert):
                if len(prefix) + len(name) > _MAX_NAME:
                    raise CheckpointError("The network is nested too deeply.")
                waiting.append((f"{prefix}{name}.", child))
    return weights


def _named(entries: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(entries, dict):
        for name, value in entries.items():
            if not isinstance(name, str) or len(name) > _MAX_NAME:
                raise CheckpointError("A module's part has no name.")
            yield name, value
