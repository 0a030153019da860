"""Checks the responses of a server over REST or gRPC."""

from collections.abc import Mapping, Sequence

import numpy as np

from tf_instdisc.text import UNTRUSTED_LIMIT, shown

Response = dict[str, np.ndarray]

_OUTPUTS = {
    "embedding": ("float32", 2),
    "valid": ("bool", 1),
    "instance_ids": ("int64", 2),
    "names": ("str", 2),
    "labels": ("int64", 2),
    "classes": ("str", 2),
    "scores": ("float32", 2),
}
"""The type and rank of each output of an exported model."""

_NEIGHBORS = ("instance_ids", "names", "scores", "labels")
_SIGNATURES = {
    "serving_default": ("embedding",),
    "image_bytes": ("embedding", "valid"),
    "neighbors": _NEIGHBORS,
    "neighbors_bytes": (*_NEIGHBORS, "valid"),
    "classify_bytes": ("classes", "scores", "valid"),
}
"""The outputs of each signature of an exported model."""


class InvalidResponseError(Exception):
    """A server sent a response that no exported model gives."""


def expected_dtype(signature_name: str, output: str) -> str | None:
    """Returns the type of an exported model's output; None if unknown."""
    if output not in _SIGNATURES.get(signature_name, ()):
        return None
    return _OUTPUTS[output][0]


def check_response(
    signature_name: str, columns: Mapping[str, np.ndarray], num_inputs: int
) -> Response:
    """Checks the response to one request.

    For the signatures of an exported model, the names, types, ranks and common
    shapes are checked. Any signature must return one row of finite numbers,
    booleans or text for each input.

    Raises:
        InvalidResponseError: If a check fails.
    """
    known = _SIGNATURES.get(signature_name, ())
    missing = [name for name in known if name not in columns]
    if missing or not columns:
        raise InvalidResponseError(
            f"the output {', '.join(missing) or 'of any name'} is missing"
        )
    for name, column in columns.items():
        _check_column(name, column, num_inputs)
        if name in known:
            _check_type(name, column)
    shapes = {columns[name].shape for name in known if _OUTPUTS[name][1] == 2}
    if len(shapes) > 1:
        raise InvalidResponseError(
            f"outputs of different shapes {sorted(shapes)}"
        )
    return dict(columns)


def join_responses(responses: Sequence[Response]) -> Response:
    """Concatenates the responses to the batches of one call.

    Raises:
        InvalidResponseError: If they differ in names, types or shapes.
    """
    # NumPy would convert numbers to text next to text.
    forms = [
        {n: (v.dtype.kind in "SU", v.shape[1:]) for n, v in response.items()}
        for response in responses
    ]
    if any(form != forms[0] for form in forms):
        raise InvalidResponseError("two batches got outputs of different forms")
    return {
        name: np.concatenate([response[name] for response in responses])
        for name in responses[0]
    }


def from_lists(values: list, dtype: str | None, max_bytes: int) -> np.ndarray:
    """Converts nested JSON lists to an array without changing types.

    Args:
        values: Lists of equal lengths of numbers, booleans or text.
        dtype: The expected type; integers are accepted for float32.
        max_bytes: Maximum size of an array of text.

    Raises:
        InvalidResponseError: If lengths or types differ, or a number does not
            fit.
    """
    # Lists of different lengths or depths remain as elements.
    array = np.array(values, object)
    types = {type(value) for value in array.flat}
    if types == {str}:
        return text_array(array, max_bytes)
    if types == {bool}:
        return array.astype(bool)
    if not types <= {int, float}:
        names = ", ".join(sorted(kind.__name__ for kind in types))
        raise InvalidResponseError(f"values of the types {names} in one output")
    is_float = float in types or dtype == "float32"
    try:
        with np.errstate(over="ignore"):
            return array.astype(np.float32 if is_float else np.int64)
    except OverflowError as error:
        raise InvalidResponseError("a number beyond 64 bits") from error


def text_array(texts: np.ndarray, max_bytes: int) -> np.ndarray:
    """Converts an array of str objects to one of text.

    Raises:
        InvalidResponseError: If the array needs more than `max_bytes`.
    """
    longest = max(map(len, texts.flat), default=0)
    # NumPy uses four bytes per character.
    if 4 * longest * texts.size > max_bytes:
        raise InvalidResponseError(f"a text of {longest:,} characters")
    return texts.astype(f"U{max(longest, 1)}")


def _check_column(name: str, column: np.ndarray, num_inputs: int) -> None:
    at = shown(name, UNTRUSTED_LIMIT)
    if column.dtype.kind not in "biufU":
        raise InvalidResponseError(f"{at} of the type {column.dtype}")
    if column.ndim < 1 or len(column) != num_inputs or not column.size:
        raise InvalidResponseError(
            f"{at} must have one row for each of {num_inputs} images, but has "
            f"the shape {column.shape}"
        )
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise InvalidResponseError(f"{at} holds NaN or infinity")


def _check_type(name: str, column: np.ndarray) -> None:
    dtype, rank = _OUTPUTS[name]
    given = "str" if column.dtype.kind == "U" else column.dtype.name
    if given != dtype or column.ndim != rank:
        raise InvalidResponseError(
            f"{name} must be {dtype} with {rank} axes, but is {given} of the "
            f"shape {column.shape}"
        )
