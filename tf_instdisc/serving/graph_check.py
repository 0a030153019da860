"""Rejects a SavedModel that a stock TensorFlow server cannot run."""

import os

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf_instdisc.errors import UsageError

# These are registered everywhere, but need the Python process or the XLA that
# created them.
_REFUSED = ("PyFunc", "PyFuncStateless", "EagerPyFunc")
_REFUSED_PREFIX = "Xla"
_REFUSED_ATTRIBUTE = "_XlaMustCompile"


def check_saved_model(path: str) -> None:
    """Checks every node of a SavedModel's graph and of all its functions.

    Raises:
        UsageError: If an op calls Python, is not part of TensorFlow, or must be
            compiled by XLA. The error names the op and its function.
    """
    model = saved_model_pb2.SavedModel()
    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        model.ParseFromString(file.read())
    graphs = [meta_graph.graph_def for meta_graph in model.meta_graphs]
    functions = [f for graph in graphs for f in graph.library.function]
    names = {function.signature.name for function in functions}
    nodes = [(n, "the main graph") for graph in graphs for n in graph.node]
    nodes += [
        (node, f"function {function.signature.name}")
        for function in functions
        for node in function.node_def
    ]
    faults = [
        f"op {node.op} at node {node.name} of {place}"
        for node, place in nodes
        if node.op not in names
        and (
            node.op in _REFUSED
            or node.op.startswith(_REFUSED_PREFIX)
            or not hasattr(tf.raw_ops, node.op)
        )
    ]
    faults += [
        f"{_REFUSED_ATTRIBUTE} on op {node.op} at node {node.name} of {place}"
        for node, place in nodes
        if node.attr[_REFUSED_ATTRIBUTE].b
    ]
    faults += [
        f"{_REFUSED_ATTRIBUTE} on function {function.signature.name}"
        for function in functions
        if function.attr[_REFUSED_ATTRIBUTE].b
    ]
    if faults:
        raise UsageError(
            "An exported graph may only contain stock TensorFlow ops. "
            "Received: " + "; ".join(faults)
        )
