"""Shows the images of a run and their neighbors on a page in the browser.

The page also shows near-duplicates and a map, and only this machine can open
it.

Examples:
  instdisc browse --run_dir=runs/photos
  instdisc browse --saved_model=models/photos --images=FOLDER
  instdisc browse --server=localhost:8500 --model_name=photos --images=FOLDER
"""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tf_instdisc.cli.embed import ModelOptions
from tf_instdisc.cli.options import MovedImages, make_folders, require_file
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import ServingError, UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.text import shown

if TYPE_CHECKING:
    from tf_instdisc.retrieval.browse.collection import Collection


@dataclasses.dataclass(frozen=True)
class BrowseOptions(Settings):
    """Page"""

    port: int = setting(
        8410, "Port on 127.0.0.1; 0 chooses a free one.", least=0, most=65_535
    )
    ticked: str = setting(
        "ticked.tsv",
        "File for the list of ticked near-duplicates; an existing list is "
        "continued.",
        is_path=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_file("ticked", self.ticked)


SETTINGS = [ModelOptions, MovedImages, BrowseOptions]


def main(
    model: ModelOptions, moved: MovedImages, options: BrowseOptions
) -> None:
    """Serves the page until Ctrl-C."""
    # The extra is checked before anything is loaded.
    from tf_instdisc.retrieval.browse import app, server
    from tf_instdisc.retrieval.browse.pictures import in_background, pictures_of
    from tf_instdisc.retrieval.browse.ticked import TickedList
    from tf_instdisc.runs import bank, opening

    collection = make_collection(model, moved)
    make_folders(options.ticked)
    next_id = None
    if model.run_dir:
        removed_ids = opening.load(model.run_dir).load_instances().removed_ids
        next_id = bank.next_id(collection.bank, removed_ids)
    ticked = TickedList(options.ticked, collection.bank, next_id)
    if ticked.num_removed:
        print(
            f"{ticked.num_removed:,} images in {shown(ticked.path)} are no "
            "longer in the bank. The next tick removes their lines.",
            file=sys.stderr,
        )
    listener = server.listen(options.port)
    pictures = pictures_of(collection.images)
    in_background(lambda: collection.warm_up(pictures))
    built = app.build_app(collection, pictures, ticked)
    port = listener.getsockname()[1]
    print(
        f"{shown(collection.title)}: http://127.0.0.1:{port}/ until Ctrl-C",
        flush=True,
    )
    server.serve(built, listener)
    # Python cannot exit while other threads compute the map in C++.
    sys.stdout.flush()
    os._exit(0)


def make_collection(model: ModelOptions, moved: MovedImages) -> "Collection":
    """Opens the images of a run, an exported model or a server."""
    if model.run_dir:
        return _of_run(model.run_dir, moved)
    if not moved.images:
        raise UsageError(
            "`images` is required unless a `run_dir` is given. Received: "
            "`images`=None. Give the folder of the images."
        )
    if model.saved_model:
        return _of_saved_model(model.saved_model, moved.images)
    return _of_server(model, moved.images)


def _of_run(run_dir: str, moved: MovedImages) -> "Collection":
    from tf_instdisc.cli.embed import run_embedder
    from tf_instdisc.retrieval.browse.collection import Collection
    from tf_instdisc.retrieval.browse.search import BankSearch
    from tf_instdisc.retrieval.duplicates import training_images
    from tf_instdisc.runs import images as run_images
    from tf_instdisc.runs import opening, sources

    run = opening.load(run_dir)
    images = run_images.open_images(run, moved.overrides())
    folder = images.config.data.images
    if folder and not os.path.isdir(local_path(folder, "images")):
        print(
            f"The images are no longer in {shown(folder)}, so none are shown. "
            "Give their folder with --images.",
            file=sys.stderr,
        )
    data = images.config.data
    if data.dataset and run_images.is_available(data):
        # TFDS must not be imported while the server runs: during its import,
        # relative imports fail in all other threads.
        source = sources.open_train(data)
        images = dataclasses.replace(images, source=source)
    embed, _ = run_embedder(run_dir)
    return Collection(
        run.path.resolve().name,
        images,
        BankSearch(images.bank, embed),
        lambda: training_images(images, run),
        run.features / "map.npz",
    )


def _of_saved_model(path: str, folder: str) -> "Collection":
    import tensorflow as tf

    from tf_instdisc.config import DataConfig, RunConfig
    from tf_instdisc.retrieval.browse.collection import Collection
    from tf_instdisc.retrieval.browse.search import BankSearch
    from tf_instdisc.runs.images import RunImages
    from tf_instdisc.serving import versions
    from tf_instdisc.serving.bank_index import read_bank
    from tf_instdisc.serving.embedder import one_by_one

    version = versions.newest_version(path)
    model = versions.load(version)
    config = RunConfig(data=DataConfig(images=folder))
    images = RunImages(read_bank(model), config)
    embed = model.signatures["image_bytes"]
    title = f"{version.resolve().parent.name} {version.name}"
    search = BankSearch(
        images.bank,
        one_by_one(lambda files: embed(image_bytes=tf.constant(files))),
    )
    return Collection(title, images, search, lambda: images)


def _of_server(model: ModelOptions, folder: str) -> "Collection":
    import numpy as np

    from tf_instdisc.cli.embed import open_client
    from tf_instdisc.config import RunConfig
    from tf_instdisc.data.folder import class_names
    from tf_instdisc.data.folder_listing import image_paths
    from tf_instdisc.retrieval.browse.collection import Collection
    from tf_instdisc.retrieval.browse.search import ServedSearch
    from tf_instdisc.runs.encoding import files_as_images
    from tf_instdisc.serving.embedder import good_image

    client, title = open_client(model, batch_size=1)
    # Fails here, not at the first search, if the model has no bank.
    client.neighbors_bytes([good_image()])

    def ask(files: Sequence[bytes]) -> Mapping[str, np.ndarray]:
        try:
            return client.neighbors_bytes(files)
        except ServingError as error:
            if error.code == "INVALID_ARGUMENT":
                return {"valid": np.array([False])}
            raise

    folder = local_path(folder, "images")
    names = image_paths(folder)
    classes = tuple(class_names(names, folder))
    images = files_as_images(folder, names, RunConfig(), classes)
    search = ServedSearch(folder, images.bank.names, ask)
    return Collection(title, images, search)
