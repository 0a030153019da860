"""The page of `instdisc browse`: its answers, and what it refuses."""

import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.request

import fsspec
import numpy as np
import pytest
from PIL import Image

from tests.browser import open_page
from tests.buckets import machine
from tests.finished_run import (
    NASTY_NAMES,
    fill_folder,
    make_run,
    picture,
    save_picture,
)
from tests.hostile_server import http_reply, raw_server, read_request
from tests.test_hostile_names import require_safe
from tf_instdisc.cli import browse, embed, options
from tf_instdisc.data.sources import NO_LABEL
from tf_instdisc.errors import ServingError, UsageError
from tf_instdisc.retrieval import analysis
from tf_instdisc.retrieval.browse import app, server
from tf_instdisc.retrieval.browse.collection import Collection
from tf_instdisc.retrieval.browse.pictures import (
    FolderPictures,
    in_background,
    pictures_of,
)
from tf_instdisc.retrieval.browse.search import NotAnImageError, ServedSearch
from tf_instdisc.retrieval.browse.ticked import TickedList
from tf_instdisc.runs.bank import Bank
from tf_instdisc.serving.bank_index import BankIndex, read_bank

pytestmark = pytest.mark.slow

PLAIN = [f"{kind}/{i}.png" for kind in ("cats", "собаки") for i in range(20)]
DECOMPOSED = "Καλημε\u0301ρα"  # noqa: RUF001  Greek.
COPIES = ("cats/copy.png", "собаки/other copy.png")
ALL = sorted([*NASTY_NAMES, *PLAIN, *COPIES, "cats/line\nend.png"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("browse")
    folder = root / "images"
    fill_folder(folder, sorted({*ALL} - {*COPIES}))
    for copy in COPIES:
        save_picture(folder, copy, picture(1_000))
    return make_run(root / "run", folder)


@pytest.fixture(scope="module")
def collection(run):
    model = embed.ModelOptions(run_dir=str(run.path))
    return browse.make_collection(model, options.MovedImages())


@pytest.fixture
def client(collection, tmp_path):
    return client_of(collection, tmp_path / "ticked.tsv")


def client_of(collection, ticked, **settings):
    from starlette.testclient import TestClient

    built = app.build_app(
        collection,
        pictures_of(collection.images),
        TickedList(ticked, collection.bank),
    )
    client = TestClient(built, "http://127.0.0.1:8410", **settings)
    client.headers["X-Version"] = client.get("/api/about").json()["version"]
    return client


def wait_for(client, path):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        answer = client.get(path).json()
        if answer["is_ready"]:
            return answer
        time.sleep(0.05)
    raise TimeoutError(path)


def names_of(answer):
    return [item["name"] for item in answer["items"]]


def test_images_are_found_by_name_and_class_in_pages(client):
    about = client.get("/api/about").json()
    assert about["count"] == len(ALL)
    cats, dogs = (about["classes"].index(name) for name in ("cats", "собаки"))
    found = client.get("/api/find?count=7").json()
    assert found["total"] == len(ALL)
    assert [item["position"] for item in found["items"]] == list(range(7))
    following = client.get("/api/find?count=7&start=7").json()
    assert following["items"][0]["position"] == 7
    assert client.get("/api/find?start=1000").json()["items"] == []

    found = client.get("/api/find", params={"text": "COPY"}).json()
    assert names_of(found) == sorted(COPIES)
    found = client.get("/api/find", params={"text": "copy other"}).json()
    assert names_of(found) == [COPIES[1]]
    found = client.get("/api/find", params={"text": "copy", "class": cats})
    assert names_of(found.json()) == [COPIES[0]]
    found = client.get("/api/find", params={"text": "СОБАКИ/1"}).json()
    assert {item["label"] for item in found["items"]} == {dogs}
    # As macOS writes letters with accents.
    found = client.get("/api/find", params={"text": DECOMPOSED}).json()
    assert found["total"] == 1


def test_names_are_escaped(client):
    found = client.get("/api/find?count=500")
    require_safe(found.text)
    assert "cats/line\\nend.png" in names_of(found.json())
    assert found.headers["content-type"] == "application/json"


def test_neighbors_of_an_image_and_of_its_file_agree(client, collection):
    position = ALL.index(COPIES[0])
    found = client.get(f"/api/neighbors/{position}?count=5").json()
    assert found["image"]["name"] == COPIES[0]
    assert len(found["items"]) == 5
    assert found["items"][0] == {
        "position": ALL.index(COPIES[1]),
        "name": COPIES[1],
        "label": collection.bank.class_names.index("собаки"),
        "score": 1.0,
    }
    path = f"{collection.images.config.data.images}/{COPIES[0]}"
    with open(path, "rb") as file:
        dropped = client.post("/api/neighbors?count=6", content=file).json()
    assert {COPIES[0], COPIES[1]} == set(names_of(dropped)[:2])
    assert dropped["items"][2:] == found["items"][1:]


def test_bytes_that_are_not_an_image_are_refused(client, monkeypatch):
    answer = client.post("/api/neighbors", content=b"GIF89a, or so it says")
    assert answer.status_code == 400
    assert "not an image" in answer.json()["error"]
    monkeypatch.setattr(app, "MAX_UPLOAD", 10)
    assert client.post("/api/neighbors", content=b"x" * 11).status_code == 413


@pytest.mark.parametrize(
    "path",
    (
        f"/api/neighbors/{len(ALL)}",
        "/thumbnails/123456789123456789123456789",
        "/thumbnails/-1",
        "/thumbnails/cats/0.png",
        "/pictures/../app.py",
        "/pictures/%2e%2e%2fapp.py",
        "/app.py",
    ),
)
def test_other_paths_do_not_exist(client, path):
    assert client.get(path).status_code == 404


def test_a_newer_version_of_the_page_is_shown(client):
    for path in ("/", "/app.js", "/map.js", "/style.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-cache"


def test_pictures_are_jpegs_of_the_images(client, collection):
    thumbnail = client.get(f"/thumbnails/{ALL.index(COPIES[0])}")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    whole = client.get(f"/pictures/{ALL.index(COPIES[0])}")
    for content, side in ((thumbnail.content, 128), (whole.content, 48)):
        shown = Image.open(_stream(content))
        assert shown.size == (side, side)
        expected = Image.fromarray(picture(1_000)).resize((8, 8), Image.BOX)
        difference = np.asarray(shown.resize((8, 8), Image.BOX), float)
        difference -= np.asarray(expected, float)
        assert np.abs(difference).mean() < 4


def _stream(content):
    import io

    return io.BytesIO(content)


@pytest.mark.parametrize(
    "name", ("../secret.png", "cats/../../secret.png", "/secret.png", "no.png")
)
def test_no_picture_lies_outside_the_folder(tmp_path, name):
    save_picture(tmp_path, "secret.png", picture(0))
    save_picture(tmp_path, "images/a.png", picture(0))
    if name.startswith("/"):
        name = f"{tmp_path}{name}"
    found = FolderPictures(str(tmp_path / "images"), np.array([name, "a.png"]))
    assert found.thumbnail(0) is None
    assert found.whole(0) is None
    assert found.thumbnail(1)


def test_other_sites_are_refused(client):
    for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1:8410"):
        answer = client.get("/api/about", headers={"host": host})
        assert answer.status_code == 400
    assert client.get("/", headers={"host": "localhost:1"}).status_code == 200
    ticked = {"position": 0, "ticked": True}
    for origin in ("http://evil.example", "http://127.0.0.1:9", "null"):
        headers = {"origin": origin}
        answer = client.post("/api/ticked", json=ticked, headers=headers)
        assert answer.status_code == 403
    assert client.get("/api/about").json()["ticked"] == []
    headers = {"origin": "http://127.0.0.1:8410"}
    answer = client.post("/api/ticked", json=ticked, headers=headers)
    assert answer.status_code == 200
    answer = client.get("/thumbnails/0")
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_map_has_a_place_and_a_group_for_each_image(client, collection):
    groups = wait_for(client, "/api/map")["groups"]
    assert groups == ["cats", "собаки"]
    content = client.get("/api/map?places=1").content
    places = np.frombuffer(content, "<u2", 2 * len(ALL)).reshape([-1, 2])
    labels = np.frombuffer(content, np.uint8, offset=4 * len(ALL))
    np.testing.assert_array_equal(labels, collection.bank.labels)
    # It fills the square along one axis at least.
    assert np.ptp(places.astype(int), axis=0).max() == 65_535
    first, second = (ALL.index(copy) for copy in COPIES)
    distances = np.linalg.norm(places.astype(int) - places[first], axis=1)
    assert (distances < distances[second]).sum() <= 3


def test_near_duplicates_are_pairs_that_can_be_ticked(collection, tmp_path):
    path = tmp_path / "ticked.tsv"
    client = client_of(collection, path)
    found = wait_for(client, "/api/duplicates")
    pairs = [
        {pair["first"]["name"], pair["second"]["name"]}
        for pair in found["items"]
    ]
    assert pairs[0] == set(COPIES)
    assert found["total"] == len(pairs)
    page = client.get("/api/duplicates?start=1000").json()
    assert page["items"] == []

    assert not path.exists()
    lines = ALL.index("cats/line\nend.png")
    for position in (ALL.index(COPIES[1]), lines):
        ticked = {"position": position, "ticked": True}
        answer = client.post("/api/ticked", json=ticked).json()
        assert position in answer["ticked"]
    assert path.read_text("utf-8").splitlines() == [
        "instance_id\tname",
        f"{lines}\tcats/line\\nend.png",
        f"{ALL.index(COPIES[1])}\t{COPIES[1]}",
    ]
    # The list is continued when the page is opened again.
    client = client_of(collection, path)
    assert len(client.get("/api/about").json()["ticked"]) == 2
    client.post("/api/ticked", json={"position": lines, "ticked": False})
    assert len(path.read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    "wanted",
    ({}, {"position": "0", "ticked": True}, {"position": 0, "ticked": 1}, []),
)
def test_a_malformed_tick_is_refused(client, wanted):
    assert client.post("/api/ticked", json=wanted).status_code == 400
    wanted = {"position": len(ALL), "ticked": True}
    assert client.post("/api/ticked", json=wanted).status_code == 404


def test_a_page_of_an_earlier_start_is_refused(collection, tmp_path):
    path = tmp_path / "ticked.tsv"
    earlier = client_of(collection, path).headers["X-Version"]
    client = client_of(collection, path)
    for version in (earlier, ""):
        client.headers["X-Version"] = version
        for answer in (
            client.post("/api/ticked", json={"position": 0, "ticked": True}),
            client.post("/api/neighbors", content=b"file"),
        ):
            assert answer.status_code == 409
            assert "Reload the page." in answer.json()["error"]
    assert not path.exists()


@pytest.mark.parametrize("ticked", ([1], [1, 2], [1, 3]))
def test_images_that_were_removed_are_dropped_from_the_list(tmp_path, ticked):
    """They are ticked, their files deleted, and the run updated."""
    path = tmp_path / "ticked.tsv"
    names = np.array([f"{i}.png" for i in range(4)])
    bank = Bank(np.eye(4), np.arange(4), names, np.zeros(4, int))
    for position in ticked:
        TickedList(path, bank).tick(position, True)
    kept = [0, 2]
    found = TickedList(
        path, Bank(np.eye(4)[kept], np.array(kept), names[kept], np.zeros(2))
    )
    assert found.positions == ([1] if 2 in ticked else [])
    assert found.num_removed == len({1, 3} & {*ticked})
    found.tick(0, True)
    assert "1.png" not in path.read_text("utf-8")


def test_the_list_may_be_at_a_url(collection, tmp_path, monkeypatch):
    url = f"memory://{tmp_path.name}/ticked.tsv"
    wanted = {"position": 3, "ticked": True}
    with machine(tmp_path / "a"):
        client = client_of(collection, url)
        assert client.get("/api/about").json()["ticked_file"] == url
        assert client.post("/api/ticked", json=wanted).json()["ticked"] == [3]

        def fail(*_):
            raise ConnectionError("no route")

        with monkeypatch.context() as patch:
            patch.setattr(fsspec.filesystem("memory"), "put", fail)
            answer = client.post("/api/ticked", json={**wanted, "position": 4})
        assert answer.status_code == 507
        assert "no route" in answer.json()["error"]
    with machine(tmp_path / "b"):
        assert TickedList(url, collection.bank).positions == [3]


def test_the_map_is_kept_for_the_next_start(run, monkeypatch):
    def opened():
        return browse.make_collection(
            embed.ModelOptions(run_dir=str(run.path)), options.MovedImages()
        )

    found = opened().map().result()
    monkeypatch.setattr(analysis, "map_of_all", None)
    again = opened().map().result()
    np.testing.assert_array_equal(again.places, found.places)


def test_a_list_that_cannot_be_written_is_reported(collection, tmp_path):
    client = client_of(collection, tmp_path / "gone" / "ticked.tsv")
    wanted = {"position": 0, "ticked": True}
    answer = client.post("/api/ticked", json=wanted)
    assert answer.status_code == 507
    assert "ticked.tsv" in answer.json()["error"]
    assert client.get("/api/about").json()["ticked"] == []


@pytest.mark.parametrize(
    "text",
    (
        "a poem\n",
        "instance_id\tname\n1\tanother.png\n",
        "instance_id\tname\n99\tcats/0.png\n",
        "instance_id\tname\nx\n",
    ),
)
def test_a_file_that_is_not_a_list_of_these_images_is_kept(
    collection, tmp_path, text
):
    path = tmp_path / "ticked.tsv"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"Received: ticked="):
        TickedList(path, collection.bank)
    assert path.read_text() == text


@pytest.mark.parametrize("dtype", ("float32", "float16", "int8"))
def test_the_bank_of_an_exported_model_is_read(dtype):
    rows = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = np.array([f"日本/{i}.png" for i in range(9)])
    labels = np.array([1, -1, 0, -1, -1, 1, 0, 0, -1])
    bank = Bank(rows, 10 + np.arange(9), names, labels, ("ant", "bee"))
    signatures = dict.fromkeys(("image_bytes", "neighbors_bytes"))
    model = types.SimpleNamespace(
        bank=BankIndex(bank, dtype), signatures=signatures
    )
    found = read_bank(model)
    np.testing.assert_allclose(found.rows, rows, atol=0.01)
    np.testing.assert_array_equal(found.instance_ids, bank.instance_ids)
    np.testing.assert_array_equal(found.names, names)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.class_names == ("ant", "bee")
    # As earlier versions exported it.
    del model.bank.class_names
    earlier = read_bank(model)
    assert earlier.class_names == ()
    assert (earlier.labels == NO_LABEL).all()
    del signatures["neighbors_bytes"]
    with pytest.raises(UsageError, match="with a bank"):
        read_bank(model)


def test_a_server_is_queried_with_the_file_of_the_image(tmp_path):
    names = np.array(["a/1.png", "a/2.png", "日本.png"])
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())

    def ask(files):
        (content,) = files
        if content == b"text":
            return {"valid": np.array([False])}
        near = [content, b"elsewhere.png", "日本.png".encode(), b"a/2.png"]
        scores = np.array([[1, 0.9, 0.8, 0.7]], np.float32)
        return {
            "names": np.array([near], object),
            "scores": scores,
            "valid": np.array([True]),
        }

    served = ServedSearch(str(tmp_path), names, ask)
    found = served.of_image(0, 5)
    assert found.positions.tolist() == [[2, 1]]
    np.testing.assert_allclose(found.scores, [[0.8, 0.7]])
    assert served.of_image(0, 1).positions.tolist() == [[2]]
    assert served.of_file(b"a/1.png", 5).positions.tolist() == [[0, 2, 1]]
    with pytest.raises(NotAnImageError):
        served.of_file(b"text", 5)


def test_a_served_model_without_a_bank_is_refused_at_the_start(collection):
    """As TF Serving answers over REST, where such a refusal is a 400."""
    reply = {
        "model_version_status": [{"version": "1", "state": "AVAILABLE"}],
        "error": 'Serving signature name: "neighbors_bytes" not found in '
        "signature def",
    }
    body = json.dumps(reply).encode()

    def answer(connection):
        is_question = connection.recv(4, socket.MSG_PEEK) == b"POST"
        read_request(connection)
        status = b"400 Bad Request" if is_question else b"200 OK"
        connection.sendall(http_reply(body, status))

    folder = collection.images.config.data.images
    with raw_server(answer) as port:
        model = embed.ModelOptions(
            rest=f"http://127.0.0.1:{port}", model_name="m"
        )
        with pytest.raises(ServingError, match=r"neighbors_bytes.*not found"):
            browse.make_collection(model, options.MovedImages(images=folder))


def test_without_rows_there_is_no_map_and_server_errors_are_reported(
    collection, tmp_path
):
    def fail(files):
        raise ServingError("UNAVAILABLE: no server answers")

    folder = collection.images.config.data.images
    search = ServedSearch(folder, collection.bank.names, fail)
    served = Collection("at a server", collection.images, search)
    client = client_of(served, tmp_path / "ticked.tsv")
    assert not client.get("/api/about").json()["has_rows"]
    assert client.get("/api/map").status_code == 404
    assert client.get("/api/duplicates").status_code == 404
    for answer in (
        client.get("/api/neighbors/0"),
        client.post("/api/neighbors", content=b"image"),
    ):
        assert answer.status_code == 502
        assert answer.json()["error"] == "UNAVAILABLE: no server answers"


def test_a_data_set_is_read_once_in_the_background(tmp_path):
    from tf_instdisc.data.tfds_source import tfds_source
    from tf_instdisc.runs.images import RunConfig, RunImages

    source = tfds_source("instdisc_digits", "train[:50]", str(tmp_path))
    ids = np.arange(0, 50, 2)
    bank = Bank(np.eye(25), ids, ids.astype(str), np.full(25, -1))
    pictures = pictures_of(RunImages(bank, RunConfig(), source))
    end = time.monotonic() + 60
    while not pictures.is_ready and time.monotonic() < end:
        time.sleep(0.05)
    stored = {
        int(e["instance_id"]): e["image"]
        for e in source.examples(None).as_numpy_iterator()
    }
    for position in (0, 24):
        shown = Image.open(_stream(pictures.thumbnail(position)))
        small = np.asarray(shown.convert("L").resize((8, 8), Image.BOX), float)
        expected = stored[int(ids[position])][:, :, 0]
        assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.95


def test_a_failure_in_the_background_is_printed(capfd):
    error = in_background(lambda: 1 / 0).exception()
    assert isinstance(error, ZeroDivisionError)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_missing_images_are_reported(run, tmp_path, capsys):
    gone = tmp_path / "gone"
    collection = browse.make_collection(
        embed.ModelOptions(run_dir=str(run.path)),
        options.MovedImages(images=str(gone)),
    )
    assert f"no longer in {gone}" in capsys.readouterr().err
    client = client_of(collection, tmp_path / "ticked.tsv")
    assert client.get("/thumbnails/0").status_code == 404
    assert client.get("/api/neighbors/0").status_code == 200


@pytest.mark.exhaustive
def test_the_command_serves_until_ctrl_c(run, tmp_path):
    command = ("-m", "tf_instdisc", "browse", f"--run_dir={run.path}")
    with subprocess.Popen(
        [sys.executable, *command, "--port=0", "--ticked=lists/ticked.tsv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        address = process.stdout.readline().split()[1]
        with urllib.request.urlopen(f"{address}api/about") as answer:
            assert json.load(answer)["count"] == len(ALL)
        assert (tmp_path / "lists").is_dir()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "interrupted" not in process.stderr.read()


def test_a_directory_is_not_a_list(tmp_path):
    with pytest.raises(UsageError, match="`ticked` must be a file"):
        browse.BrowseOptions(ticked=str(tmp_path))


def test_a_port_in_use_is_reported():
    with server.listen(0) as listener:
        address, port = listener.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(UsageError, match=rf"Received: `port`={port}"):
            server.listen(port)


def test_the_answers_are_json(client):
    answer = client.get("/nowhere")
    assert answer.status_code == 404
    assert json.loads(answer.text)["error"]


# === In a browser ===


@pytest.fixture(scope="module")
def page(collection, tmp_path_factory):
    """The page in a browser, with its file of ticked images."""
    ticked = tmp_path_factory.mktemp("ticked") / "ticked.tsv"
    built = app.build_app(
        collection,
        pictures_of(collection.images),
        TickedList(ticked, collection.bank),
    )
    running = server.build_server(built)
    listener = server.listen(0)
    thread = threading.Thread(
        target=running.run, kwargs={"sockets": [listener]}, daemon=True
    )
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    try:
        with open_page(address) as (driver, messages):
            yield Page(driver, messages, address, ticked)
    finally:
        running.should_exit = True
        thread.join(10)


class Page:
    """What a user does in the browser."""

    def __init__(self, driver, messages, address, ticked):
        self.driver, self.messages = driver, messages
        self.address, self.ticked = address, ticked

    def open(self, hash="", width=1200):
        size = {"width": width, "height": 800}
        more = {"deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**size, **more}
        )
        self.driver.get("about:blank")
        self.driver.get(f"{self.address}#{hash}")
        self.wait("document.querySelector('#grid .tile, #pairs .tile')")

    def do(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, expression):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            value = self.do(f"return {expression}")
            if value:
                return value
            time.sleep(0.02)
        said = self.do("return document.body.innerText")
        raise TimeoutError(f"{expression}: {said} {self.messages()}")

    def wait_for_heading(self, text):
        self.wait(
            "document.querySelector('#query h2').textContent === "
            f"{json.dumps(text)} && !document.querySelector('#query').hidden"
        )

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def titles(self):
        return self.do(
            "return [...document.querySelectorAll('#grid .tile')]"
            ".map(tile => tile.title)"
        )


def test_clicks_walk_from_image_to_image(page):
    page.open()
    assert page.titles() == [
        name.replace("\n", "\\n") for name in ALL[: len(page.titles())]
    ]
    assert not page.do("return document.querySelectorAll('[src=x]').length")
    page.find("#grid .tile[title='cats/copy.png']").click()
    page.wait_for_heading(COPIES[0])
    assert page.titles()[0] == COPIES[1]
    page.wait("document.querySelector('#query img').naturalWidth === 48")
    page.wait("document.querySelector('#grid img').naturalWidth === 128")
    page.find("#grid .tile").click()
    page.wait_for_heading(COPIES[1])
    assert page.titles()[0] == COPIES[0]
    page.driver.back()
    page.wait_for_heading(COPIES[0])

    page.find("[name=text]").send_keys("copy")
    page.wait("document.querySelector('#grid').children.length === 2")
    page.do(
        "const list = document.querySelector('[name=class]');"
        "list.value = '1'; list.dispatchEvent(new Event('change'))"
    )
    page.wait("document.querySelector('#grid').children.length === 1")
    assert page.titles() == [COPIES[1]]
    page.driver.refresh()
    page.wait("document.querySelector('#grid').children.length === 1")

    origins = page.do(
        "return performance.getEntriesByType('resource')"
        ".map(entry => new URL(entry.name).origin + '/')"
    )
    assert set(origins) == {page.address}
    assert page.messages() == []


def test_a_photograph_is_dropped_or_opened(page, collection):
    page.open()
    page.wait("!document.querySelector('#map-state').textContent")
    page.do(
        "window.rings = []; CanvasRenderingContext2D.prototype.arc ="
        "(x, y, radius) => { if (isFinite(x)) rings.push(radius); }"
    )
    path = f"{collection.images.config.data.images}/{COPIES[0]}"
    page.find("#file").send_keys(path)
    page.wait_for_heading("copy.png")
    page.wait("rings.length")
    assert set(page.do("return rings")) == {5}  # None is the query's.
    assert set(page.titles()[:2]) == set(COPIES)
    drop = (
        "const data = new DataTransfer(); data.items.add("
        "new File([new Uint8Array(arguments[0])], arguments[1]));"
        "for (const kind of ['dragover', 'drop']) document.body.dispatchEvent("
        "new DragEvent(kind, {dataTransfer: data, bubbles: true}));"
    )
    path = f"{collection.images.config.data.images}/{PLAIN[3]}"
    with open(path, "rb") as file:
        page.do(drop, list(file.read()), "<b>dropped.png")
    page.wait_for_heading("<b>dropped.png")
    assert page.titles()[0] == PLAIN[3]
    page.wait("document.querySelector('#query img').naturalWidth === 48")
    page.do(drop, [1, 2, 3], "text.png")
    page.wait("document.querySelector('#message').innerText.includes('not an')")
    page.messages()  # The refused request is logged.


def test_a_late_picture_does_not_replace_the_next_one(
    page, collection, monkeypatch
):
    monkeypatch.setattr(FolderPictures, "is_ready", False)
    first, second = (ALL.index(name) for name in PLAIN[:2])
    path = pathlib.Path(collection.images.config.data.images, PLAIN[0])
    away = path.rename(path.with_suffix(".away"))
    try:
        page.open(f"image={first}")
        page.wait_for_heading(PLAIN[0])
        page.wait("document.querySelector('#query img').complete")
        page.do("location.hash = arguments[0]", f"#image={second}")
        page.wait_for_heading(PLAIN[1])
        time.sleep(1.5)
    finally:
        away.rename(path)
    source = page.do("return document.querySelector('#query img').src")
    assert f"/pictures/{second}?" in source
    page.messages()  # The missing pictures are logged.


def test_the_keyboard_does_everything(page):
    from selenium.webdriver.common.keys import Keys

    page.open()
    page.press("/", "copy", Keys.ENTER, Keys.ESCAPE)
    page.wait("document.querySelector('#grid').children.length === 2")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ENTER)
    page.wait_for_heading(COPIES[1])
    page.press(Keys.BACKSPACE)
    page.wait("document.querySelector('#grid').children.length === 2")
    page.press("r")
    page.wait("location.hash.startsWith('#image=')")
    page.press("d")
    page.wait("document.querySelectorAll('#pairs .tile').length")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.SPACE)
    page.wait("document.querySelector('#ticked-count').textContent === '1'")
    assert COPIES[1] in page.ticked.read_text("utf-8")
    page.press(Keys.SPACE)
    page.wait("document.querySelector('#ticked-count').textContent === '0'")
    assert COPIES[1] not in page.ticked.read_text("utf-8")
    page.press(Keys.ENTER)
    page.wait_for_heading(COPIES[1])
    assert COPIES[1] not in page.ticked.read_text("utf-8")
    page.press("?")
    page.wait("document.querySelector('#help').open")
    page.press(Keys.ESCAPE)
    page.wait("!document.querySelector('#help').open")
    page.press("i")
    page.wait(f"document.querySelector('#grid').children.length === {len(ALL)}")
    page.press("m")
    page.wait("document.activeElement.tagName === 'CANVAS'")
    assert page.messages() == []


@pytest.mark.parametrize("width", (1200, 375))
def test_a_dot_of_the_map_leads_to_its_image(page, client, width):
    from selenium.webdriver.common.action_chains import ActionChains

    wait_for(client, "/api/map")
    content = client.get("/api/map?places=1").content
    places = np.frombuffer(content, "<u2", 2 * len(ALL)).reshape([-1, 2])
    places = places.astype(float)
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(distances, np.inf)
    lonely = int(distances.min(axis=1).argmax())
    page.open("map=1", width)
    page.wait("!document.querySelector('#map-state').textContent")
    canvas = page.find("canvas")
    size = canvas.size
    side = 0.94 * min(size["width"], size["height"])
    x, y = ((places[lonely] / 65_535 - 0.5) * side).round()
    ActionChains(page.driver).move_to_element_with_offset(
        canvas, int(x), int(y)
    ).click().perform()
    page.wait_for_heading(ALL[lonely].replace("\n", "\\n"))
    assert page.find("#grid").is_displayed()
    assert page.messages() == []


def test_a_phone_shows_one_view_without_horizontal_scrolling(page):
    for view in ("images", "duplicates", "map"):
        page.open(f"{view}=1", width=375)
        for other in ("images", "duplicates", "map"):
            shown = page.find(f"#{other}").is_displayed()
            assert shown == (other == view), (view, other)
        assert page.do("return document.documentElement.scrollWidth") <= 375
    page.open(f"image={ALL.index(NASTY_NAMES[-1])}", width=375)
    page.wait_for_heading(NASTY_NAMES[-1])
    assert page.do("return document.documentElement.scrollWidth") <= 375
    assert page.messages() == []
