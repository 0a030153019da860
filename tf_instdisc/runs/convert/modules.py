"""Weights of a pickled module, as its `state_dict` would give them."""

from collections.abc import Iterator
from typing import Any

from tf_instdisc.runs.convert.records import CheckpointError, Inert, Tensor

# Of any network that is known; a hostile file may have any.
_MAX_WEIGHTS = 10_000
_MAX_NAME = 500


def module_weights(module: Inert) -> dict[str, Tensor]:
    """Collects parameters and buffers of a module and of those within it.

    Args:
        module: Of a pickle.

    Returns:
        The tensors, by the names that PyTorch gives them.

    Raises:
        CheckpointError: If a module stands in it twice, or there are more
            weights or longer names than any network has.
    """
    weights: dict[str, Tensor] = {}
    seen = set()
    waiting = [("", module)]
    while waiting:
        prefix, node = waiting.pop()
        if id(node) in seen:
            raise CheckpointError("A module stands in the network twice.")
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
