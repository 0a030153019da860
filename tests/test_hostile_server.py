"""Whatever a server sends: in time, within bounds, or a ServingError."""

import json
import socket
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from tests.hostile_server import (
    dripping,
    grpc_server,
    http_reply,
    raw_server,
    read_request,
    replying,
)
from tf_instdisc.errors import UsageError
from tf_instdisc.serving_client import GrpcClient, RestClient, ServingError

HEAD = b"HTTP/1.1 200 OK\r\n"
NAN, INF = float("nan"), float("inf")


def rest(port, **options):
    options = {"deadline": 0.4, **options}
    return RestClient(f"http://127.0.0.1:{port}", "m", **options)


# === The deadline ===


def silent(connection):
    time.sleep(10)


def not_reading(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    time.sleep(10)


def slowly_unavailable(connection):
    read_request(connection)
    time.sleep(0.3)
    connection.sendall(http_reply(b"busy", b"503 Service Unavailable"))


SLOW = {
    "body": dripping(HEAD + b"Content-Length: 1000\r\n\r\n", b" "),
    "body without length": dripping(HEAD + b"\r\n", b" "),
    "chunks": dripping(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"
    ),
    "a chunk's size": dripping(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"
    ),
    "headers": dripping(HEAD, b"x: y\r\n"),
    "one header": dripping(HEAD + b"x: ", b"y"),
    "the status": dripping(b"HTTP/1.1 200 ", b"O"),
    "100 again and again": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the body of a 500": dripping(
        b"HTTP/1.1 500 X\r\nContent-Length: 1000\r\n\r\n", b" "
    ),
    "the body of a 503": dripping(
        b"HTTP/1.1 503 X\r\nContent-Length: 1000\r\n\r\n", b" "
    ),
    "503 again and again": slowly_unavailable,
    "nothing": silent,
    "does not read": not_reading,
    "breaks off": lambda connection: None,
}


@pytest.mark.exhaustive_variants("headers", "one header", "the *")
@pytest.mark.parametrize("case", SLOW)
def test_a_slow_server_has_until_the_deadline(case):
    content = b"x" * (20_000_000 if case == "does not read" else 10)
    with raw_server(SLOW[case]) as port:
        start = time.monotonic()
        with pytest.raises(ServingError) as error:
            rest(port, deadline=0.7).embed_bytes([content])
        assert time.monotonic() - start < 2.5
        assert error.value.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
        _require_no_threads()


def test_a_slow_handshake_has_until_the_deadline():
    with raw_server(dripping(b"\x16\x03\x03\x40\x00", b"\x02")) as port:
        client = RestClient(f"https://127.0.0.1:{port}", "m", deadline=0.7)
        start = time.monotonic()
        with pytest.raises(ServingError):
            client.status()
        assert time.monotonic() - start < 2.5
        _require_no_threads()


def test_slow_name_resolution_has_until_the_deadline(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(3))
    start = time.monotonic()
    with pytest.raises(ServingError) as error:
        RestClient("http://nowhere.invalid", "m", deadline=0.5).status()
    assert time.monotonic() - start < 2
    assert error.value.code == "DEADLINE_EXCEEDED"


def test_a_slow_grpc_server_has_until_the_deadline():
    def slow(context):
        time.sleep(3)
        return b""

    with grpc_server({"Predict": slow}) as port:
        start = time.monotonic()
        with (
            GrpcClient(f"127.0.0.1:{port}", "m", deadline=0.7) as client,
            pytest.raises(ServingError) as error,
        ):
            client.embed_bytes([b"x"])
        assert time.monotonic() - start < 2.5
        assert error.value.code == "DEADLINE_EXCEEDED"


def _require_no_threads():
    """Nothing that was started for an exchange continues after it."""
    end = time.monotonic() + 2
    while any(t.name == "exchange" for t in threading.enumerate()):
        assert time.monotonic() < end, "a thread still asks"
        time.sleep(0.02)


# === Invalid responses, over both ===


def embedding(*rows):
    return np.array(rows or [[0.6, 0.8]] * 2, np.float32)


GOOD = {"embedding": embedding(), "valid": np.array([True, True])}
FOUND = {
    "instance_ids": np.array([[3, 1], [0, -1]]),
    "names": np.array([["b", "ä/c"], ["", "d"]]),
    "scores": np.array([[0.5, 0.25], [1.0, 0.0]], np.float32),
    "labels": np.array([[-1, 2], [0, 0]]),
    "valid": np.array([True, False]),
}
VOTES = {
    "classes": np.array([["a", "b"]] * 2),
    "scores": np.array([[0.5, 0.5], [1.0, 0.0]], np.float32),
    "valid": np.array([True, True]),
}
METHODS = {
    "image_bytes": ("embed_bytes", GOOD),
    "neighbors_bytes": ("neighbors_bytes", FOUND),
    "classify_bytes": ("classify_bytes", VOTES),
}
WRONG = {
    "one row for two": ("image_bytes", {k: v[:1] for k, v in GOOD.items()}),
    "three rows": (
        "image_bytes",
        {k: np.repeat(v, 3, 0)[:3] for k, v in GOOD.items()},
    ),
    "rows that differ": ("image_bytes", {**GOOD, "valid": np.ones(3, bool)}),
    "no embedding": ("image_bytes", {"valid": GOOD["valid"]}),
    "no valid": ("image_bytes", {"embedding": embedding()}),
    "NaN": ("image_bytes", {**GOOD, "embedding": embedding([1, NAN], [0, 1])}),
    "infinity": (
        "image_bytes",
        {**GOOD, "embedding": embedding([-INF, 1], [0, 1])},
    ),
    "one axis": ("image_bytes", {**GOOD, "embedding": embedding()[:, 0]}),
    "three axes": ("image_bytes", {**GOOD, "embedding": embedding()[None, :]}),
    "no columns": ("image_bytes", {**GOOD, "embedding": embedding()[:, :0]}),
    "text": ("image_bytes", {**GOOD, "embedding": np.array([["1", "2"]] * 2)}),
    "truth": ("image_bytes", {**GOOD, "embedding": np.ones([2, 2], bool)}),
    "valid in numbers": ("image_bytes", {**GOOD, "valid": np.array([1, 0])}),
    "valid in columns": (
        "image_bytes",
        {**GOOD, "valid": np.ones([2, 1], bool)},
    ),
    "ids as fractions": (
        "neighbors_bytes",
        {**FOUND, "instance_ids": FOUND["scores"]},
    ),
    "ids as text": (
        "neighbors_bytes",
        {**FOUND, "instance_ids": FOUND["names"]},
    ),
    "names as numbers": (
        "neighbors_bytes",
        {**FOUND, "names": FOUND["labels"]},
    ),
    "labels as truth": (
        "neighbors_bytes",
        {**FOUND, "labels": np.ones([2, 2], bool)},
    ),
    "fewer names": (
        "neighbors_bytes",
        {**FOUND, "names": FOUND["names"][:, :1]},
    ),
    "no scores": (
        "neighbors_bytes",
        {k: v for k, v in FOUND.items() if k != "scores"},
    ),
    "scores with NaN": (
        "neighbors_bytes",
        {**FOUND, "scores": embedding([NAN, 0], [0, 0])},
    ),
    "more classes": (
        "classify_bytes",
        {**VOTES, "classes": np.array([["a", "b", "c"]] * 2)},
    ),
}


def over_rest(columns):
    lists = {name: column.tolist() for name, column in columns.items()}
    length = max(map(len, lists.values()))
    rows = [
        {name: values[i] for name, values in lists.items() if i < len(values)}
        for i in range(length)
    ]
    if len(lists) == 1:
        rows = next(iter(lists.values()))
    body = json.dumps({"predictions": rows}).encode()
    return raw_server(replying(http_reply(body)))


def over_grpc(columns):
    response = predict_pb2.PredictResponse()
    for name, column in columns.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(column))
    return grpc_server({"Predict": response.SerializeToString()})


@pytest.fixture(params=["gRPC", "REST"])
def asked(request):
    """Asks a server that gives these outputs, by one of the two."""

    def ask(signature, columns):
        method, _ = METHODS[signature]
        if request.param == "REST":
            with over_rest(columns) as port:
                return getattr(rest(port, deadline=20), method)([b"a", b"b"])
        with (
            over_grpc(columns) as port,
            GrpcClient(f"127.0.0.1:{port}", "m", deadline=20) as client,
        ):
            return getattr(client, method)([b"a", b"b"])

    return ask


@pytest.mark.parametrize("signature", METHODS)
def test_right_answers_arrive(asked, signature):
    _, columns = METHODS[signature]
    response = asked(signature, columns)
    assert response.keys() == columns.keys()
    for name, column in columns.items():
        np.testing.assert_array_equal(response[name], column)
        assert response[name].dtype.kind == column.dtype.kind


@pytest.mark.parametrize("case", WRONG)
def test_wrong_answers_are_refused(asked, case):
    with pytest.raises(ServingError, match="invalid response") as error:
        asked(*WRONG[case])
    assert error.value.code == "INTERNAL"


def test_integers_in_json_are_accepted_as_floats():
    row = {"embedding": [1, 0.0], "valid": True}
    body = json.dumps({"predictions": [row, row]}).encode()
    with raw_server(replying(http_reply(body))) as port:
        response = rest(port, deadline=20).embed_bytes([b"a", b"b"])
    assert response["embedding"].dtype == np.float32
    np.testing.assert_array_equal(response["embedding"], [[1, 0]] * 2)


def test_batches_must_agree():
    """The second batch's embeddings are longer."""
    replies = iter([[0.6, 0.8], [0.0, 0.6, 0.8]])

    def response(connection):
        read_request(connection)
        row = {"embedding": next(replies), "valid": True}
        connection.sendall(
            http_reply(json.dumps({"predictions": [row]}).encode())
        )

    with raw_server(response) as port:
        client = rest(port, deadline=20, batch_size=1)
        with pytest.raises(ServingError, match="two batches"):
            client.embed_bytes([b"a", b"b"])


# === Replies that are not HTTP ===

ROW = b'{"embedding": [0.6, 0.8], "valid": true}'
JSON = {
    "no JSON": b"<html>",
    "empty": b"",
    "cut": b'{"predictions": [' + ROW,
    "null": b"null",
    "a list": b"[1]",
    "predictions null": b'{"predictions": null}',
    "predictions {}": b'{"predictions": {}}',
    "predictions []": b'{"predictions": []}',
    "predictions a text": b'{"predictions": "ab"}',
    "rows null": b'{"predictions": [null, null]}',
    "mixed rows": b'{"predictions": [' + ROW + b", [1.0]]}",
    "ragged": b'{"predictions": ['
    + ROW
    + b', {"embedding": [1.0], "valid": true}]}',
    "a missing key": b'{"predictions": [' + ROW + b', {"valid": true}]}',
    "text for a number": b'{"predictions": [{"embedding": ["0.5", 1.0], '
    b'"valid": true}, ' + ROW + b"]}",
    "truth for a number": b'{"predictions": [{"embedding": [true, 1.0], '
    b'"valid": true}, ' + ROW + b"]}",
    "null for a number": b'{"predictions": [{"embedding": [null, 1.0], '
    b'"valid": true}, ' + ROW + b"]}",
    "a list for a number": b'{"predictions": [{"embedding": [[1.0], 1.0], '
    b'"valid": true}, ' + ROW + b"]}",
    "NaN": b'{"predictions": [{"embedding": [NaN, 1.0], "valid": true}, '
    + ROW
    + b"]}",
    "Infinity": b'{"predictions": [{"embedding": [-Infinity, 1.0], '
    b'"valid": true}, ' + ROW + b"]}",
    "beyond float32": b'{"predictions": [{"embedding": [1e300, 1.0], '
    b'"valid": true}, ' + ROW + b"]}",
    "beyond 64 bits": b'{"predictions": [[%d], [1]]}' % 10**400,
    "5000 digits": b'{"predictions": [[%s], [1]]}' % (b"9" * 5000),
    "deep": b'{"predictions": ' + b"[" * 200_000,
    "deep and closed": b'{"predictions": ' + b"[" * 500 + b"]" * 500 + b"}",
    "deep objects": b'{"predictions": ' + b'{"a":' * 200_000,
    "no UTF-8": b'{"predictions": ["\xff\xfe"]}',
    "lone surrogate": b'{"predictions": ["\\ud800", "a"]}',
}
HTTP = {
    "no HTTP": b"SSH-2.0-x\r\n",
    "a wrong status": b"HTTP/1.1 abc OK\r\n\r\n",
    "500 with a cut body": b"HTTP/1.1 500 X\r\nContent-Length: 1000\r\n\r\n{",
    "a cut body": HEAD + b"Content-Length: 1000\r\n\r\n{}",
    "a huge length": HEAD + b"Content-Length: %d\r\n\r\n{}" % 10**18,
    "an enormous length": HEAD + b"Content-Length: %d\r\n\r\n{}" % 10**40,
    "a negative length": HEAD + b"Content-Length: -5\r\n\r\n{}",
    "no length": HEAD + b"Content-Length: x\r\n\r\n{}",
    "a wrong chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "a negative chunk": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n",
    "a cut chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n{}",
    "a huge chunk": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffff\r\n{}",
    "many headers": HEAD + b"a: b\r\n" * 200 + b"\r\n",
    "a long header": HEAD + b"a: " + b"b" * 100_000 + b"\r\n\r\n",
    "a redirect": b"HTTP/1.1 302 X\r\nLocation: file:///etc/passwd\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "packed": HEAD + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00",
    "401": http_reply(b"no", b"401 Unauthorized"),
    **{f"JSON: {name}": http_reply(body) for name, body in JSON.items()},
}


@pytest.mark.parametrize("case", HTTP)
def test_nothing_but_serving_errors_comes_out(case):
    with raw_server(replying(HTTP[case])) as port:
        client = rest(port)
        with pytest.raises(ServingError) as error:
            client.embed_bytes([b"a", b"b"])
        assert len(str(error.value)) < 1000
        with pytest.raises(ServingError):
            client.predict("serving_default", np.zeros([2, 2, 2, 3], np.uint8))
        with pytest.raises(ServingError):
            client.status()


def test_damaged_replies_give_an_error_or_an_answer():
    row = {"embedding": [0.6, 0.8, 0.0, 0.125], "valid": True}
    good = http_reply(json.dumps({"predictions": [row, row]}).encode())
    rng = np.random.default_rng(0)
    errors = 0
    reply = [good]

    def response(connection):
        read_request(connection)
        connection.sendall(reply[0])

    with raw_server(response) as port:
        client = rest(port, deadline=0.15)
        for _ in range(150):
            damaged = bytearray(good)
            for place in rng.integers(0, len(good), rng.integers(1, 4)):
                damaged[place] = rng.integers(0, 256)
            reply[0] = bytes(damaged[: rng.integers(len(good) // 2, 999)])
            try:
                answered = client.embed_bytes([b"a", b"b"])
            except ServingError:
                errors += 1
            else:
                assert answered["embedding"].shape[0] == 2
                assert np.isfinite(answered["embedding"]).all()
    assert errors > 50


@pytest.mark.parametrize(
    "start",
    [HEAD + b"\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n"],
    ids=["no length", "chunks"],
)
def test_an_endless_body_is_not_read(start):
    sent = []

    def response(connection):
        read_request(connection)
        connection.sendall(start)
        piece = b" " * 65536
        if b"chunked" in start:
            piece = b"10000\r\n" + piece + b"\r\n"
        while True:
            connection.sendall(piece)
            sent.append(len(piece))

    with raw_server(response) as port:
        client = rest(port, deadline=20, max_message_bytes=2**20)
        start_time = time.monotonic()
        with pytest.raises(ServingError) as error:
            client.status()
        assert error.value.code == "RESOURCE_EXHAUSTED"
        assert time.monotonic() - start_time < 10
        # The data in the buffers of both sides is added to this.
        assert sum(sent) < 2**20 + 2**24


STATES = {
    "no list": b'{"model_version_status": 5}',
    "an empty list": b'{"model_version_status": []}',
    "no versions": b'{"model_version_status": [{}]}',
    "a number": b'{"model_version_status": [7]}',
    "no number": b'{"model_version_status": [{"version": "x", "state": "A"}]}',
    "infinity": b'{"model_version_status": [{"version": Infinity, '
    b'"state": "A"}]}',
    "no state": b'{"model_version_status": [{"version": "1", "state": 3}]}',
    "a huge number": b'{"model_version_status": [{"version": "%d", '
    b'"state": "A"}]}' % 2**70,
}


@pytest.mark.parametrize("case", STATES)
def test_wrong_states_are_refused(case):
    with (
        raw_server(replying(http_reply(STATES[case]))) as port,
        pytest.raises(ServingError),
    ):
        rest(port).status()


def test_messages_of_servers_are_escaped_and_short():
    evil = b"\x1b[2J\xe2\x80\xae\r\n" + b"x" * 5000
    with raw_server(replying(http_reply(evil, b"400 X"))) as port:
        for ask in (rest(port).status, lambda: rest(port).embed_bytes([b"a"])):
            with pytest.raises(ServingError) as error:
                ask()
            text = str(error.value)
            assert text.isprintable()
            assert "\\x1b[2J\\u202e" in text
            assert len(text) < 600


# === gRPC: invalid tensors ===


def tensor(dtype="float32", shape=(2, 2), content=b"", **values):
    proto = tf.make_tensor_proto(np.zeros(1, np.float32))
    proto.Clear()
    proto.dtype = (
        dtype if isinstance(dtype, int) else tf.as_dtype(dtype).as_datatype_enum
    )
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_content = content
    for name, value in values.items():
        getattr(proto, name).extend(value)
    return proto


def unknown_rank():
    proto = tensor(float_val=[1, 0, 0, 1])
    proto.tensor_shape.ClearField("dim")
    proto.tensor_shape.unknown_rank = True
    return proto


TENSORS = {
    "double": tensor("float64", double_val=[1, 0, 0, 1]),
    "half": tensor("float16", half_val=[0] * 4),
    "int64": tensor("int64", int64_val=[1, 0, 0, 1]),
    "text": tensor("string", string_val=[b"a"] * 4),
    "text in its content": tensor("string", content=b"abcd"),
    "complex": tensor("complex64", scomplex_val=[1.0] * 8),
    "variant": tensor(int(tf.variant.as_datatype_enum)),
    "resource": tensor(int(tf.resource.as_datatype_enum), float_val=[1] * 4),
    "type 0": tensor(0, float_val=[1] * 4),
    "type 999": tensor(999, float_val=[1] * 4),
    "a reference": tensor(101, float_val=[1] * 4),
    "little content": tensor(content=b"\0" * 15),
    "much content": tensor(content=b"\0" * 32),
    "odd content": tensor(content=b"\0" * 17),
    "no values": tensor(shape=(2, 2)),
    "few values": tensor(shape=(2, 2), float_val=[1.0]),
    "many values": tensor(float_val=[1.0] * 5),
    "a huge shape": tensor(shape=(2, 2**40), float_val=[1.0]),
    "a huge shape of none": tensor(shape=(2, 2**40)),
    "an overflowing shape": tensor(shape=(2, 2**62, 2**62), content=b"\0" * 16),
    "negative": tensor(shape=(2, -2), float_val=[1.0] * 4),
    "unknown rank": unknown_rank(),
    "no axes": tensor(shape=(), float_val=[1.0]),
    "many axes": tensor(shape=(2, 2) + (1,) * 100, float_val=[1.0] * 4),
    "no rows": tensor(shape=(0, 2)),
}


@pytest.mark.parametrize("case", TENSORS)
def test_invalid_tensors_are_refused(case):
    response = predict_pb2.PredictResponse()
    response.outputs["embedding"].CopyFrom(TENSORS[case])
    with (
        grpc_server({"Predict": response.SerializeToString()}) as port,
        GrpcClient(f"127.0.0.1:{port}", "m", deadline=20) as client,
        pytest.raises(ServingError),
    ):
        client.embed(np.zeros([2, 2, 2, 3], np.uint8))


def test_names_that_are_not_text_are_refused():
    response = predict_pb2.PredictResponse()
    for name, column in FOUND.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(column))
    for texts, at_most in (([b"\xff"] * 4, 2**28), ([b"x" * 99] * 4, 1500)):
        proto = tensor("string", string_val=texts)
        response.outputs["names"].CopyFrom(proto)
        with (
            grpc_server({"Predict": response.SerializeToString()}) as port,
            GrpcClient(
                f"127.0.0.1:{port}", "m", deadline=20, max_message_bytes=at_most
            ) as client,
            pytest.raises(ServingError, match="text"),
        ):
            client.neighbors_bytes([b"a", b"b"])


def test_grpc_bytes_that_are_not_a_message():
    unknown = get_model_status_pb2.GetModelStatusResponse()
    unknown.model_version_status.add(version=1, state=77)
    empty = predict_pb2.PredictResponse()
    for response in (
        b"\xff" * 20,
        b"",
        unknown.SerializeToString(),
        empty.SerializeToString(),
    ):
        with (
            grpc_server(
                {"Predict": response, "GetModelStatus": response}
            ) as port,
            GrpcClient(f"127.0.0.1:{port}", "m", deadline=5) as client,
        ):
            with pytest.raises(ServingError):
                client.embed_bytes([b"a", b"b"])
            with pytest.raises(ServingError):
                client.status()


# === The caller's own mistakes ===


@pytest.mark.parametrize(
    "arguments",
    [
        {"deadline": 0},
        {"deadline": NAN},
        {"deadline": INF},
        {"deadline": "2"},
        {"batch_size": 0},
        {"batch_size": 1.5},
        {"max_message_bytes": 0},
        {"version": -1},
        {"version": "1"},
        {"version": True},
        {"label": ""},
        {"model_name": ""},
        {"version": 1, "label": "stable"},
    ],
)
@pytest.mark.parametrize("kind", [RestClient, GrpcClient])
def test_arguments_of_the_caller_are_value_errors(kind, arguments):
    address = "http://localhost:1" if kind is RestClient else "localhost:1"
    arguments = {"model_name": "m", **arguments}
    with pytest.raises(ValueError, match="Received"):
        kind(address, **arguments)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8501",
        "ftp://localhost",
        "http://",
        "http://:8501",
        "http://localhost:x",
        "http://localhost:70000",
        "http://local host",
        "http://localhost/\r\nX: y",
        "http://localhost/?a=b",
        "file:///etc/passwd",
        None,
    ],
)
def test_urls_are_checked_at_once(url):
    with pytest.raises(ValueError, match="url"):
        RestClient(url, "m")


def test_certificates_need_an_encrypted_connection(tmp_path):
    with pytest.raises(
        UsageError, match="Received: url='http://localhost:8501"
    ):
        RestClient("http://localhost:8501", "m", root_certificates="ca.pem")


def test_certificates_are_checked_at_once(tmp_path):
    file = tmp_path / "no.pem"
    file.write_text("no certificate")
    with pytest.raises(ValueError, match="root_certificates"):
        RestClient("https://localhost", "m", root_certificates=str(file))


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        b"one file",
        "a.png",
        5,
        ["a.png"],
        [b"x", "a.png"],
        [b"x", np.zeros([2, 2, 3])],
        np.full([1, 2, 2, 3], NAN),
        np.array([["a"]]),
        [[1, 2], [3]],
        [None],
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", [RestClient, GrpcClient])
def test_inputs_are_checked_before_they_are_sent(kind, inputs):
    address = "http://localhost:1" if kind is RestClient else "localhost:1"
    # NumPy refuses ragged lists with a message of its own.
    with (
        kind(address, "m", deadline=0.2) as client,
        pytest.raises(ValueError, match=r"inputs|inhomogeneous"),
    ):
        client.predict("image_bytes", inputs)
