"""Finds the protocols in the `*_protocol.py` files of this package."""

import importlib
import pkgutil

from tf_instdisc import evaluation
from tf_instdisc.config.fields import require_choice
from tf_instdisc.evaluation.protocol import Protocol

_ENDING = "_protocol"


def protocols() -> dict[str, type[Protocol]]:
    """Returns all protocols by name, without importing TensorFlow."""
    found: dict[str, type[Protocol]] = {}
    for module in pkgutil.iter_modules(evaluation.__path__):
        if module.name.endswith(_ENDING):
            for kind in _protocols_of(f"{evaluation.__name__}.{module.name}"):
                if kind.name in found:
                    raise ValueError(
                        "Protocols must have different names. Received: "
                        f"{kind} and {found[kind.name]}, both {kind.name!r}"
                    )
                found[kind.name] = kind
    return found


def find(name: str) -> type[Protocol]:
    """Returns the protocol with the given name.

    Raises:
        UsageError: If there is none.
    """
    known = protocols()
    require_choice("protocol", name, known)
    return known[name]


def _protocols_of(module: str) -> list[type[Protocol]]:
    """Returns the public subclasses that a module defines."""
    return [
        kind
        for kind in vars(importlib.import_module(module)).values()
        if isinstance(kind, type)
        and issubclass(kind, Protocol)
        and kind.__module__ == module
        and not kind.__name__.startswith("_")
    ]
