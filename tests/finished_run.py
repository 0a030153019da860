"""A finished run over a folder of small pictures, made without training."""

import pathlib

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tf_instdisc.config.run import from_flagfile
from tf_instdisc.data.folder import folder_source
from tf_instdisc.data.pipeline import evaluation_dataset
from tf_instdisc.runs import directory, opening
from tf_instdisc.runs.bank import Bank, EncodedBy
from tf_instdisc.runs.embedding import embed
from tf_instdisc.runs.record import RunRecord

SIZE = 16
NASTY_NAMES = (
    "cats/with space.png",
    "cats/\"double\" 'single' quotes.png",
    "cats/<img src=x onerror=alert(1)>&amp;.png",
    "cats/{{ 7 * 7 }} ${7*7} </td>.png",
    "собаки/Καλημέρα κόσμε.png",
    "собаки/日本語の名前.png",
    "собаки/مرحبا بالعالم.png",
    "собаки/" + "x" * 146 + "/" + "y" * 143 + ".png",
)


def picture(seed: int, size: int = 48) -> np.ndarray:
    """A smooth picture, uint8 `[size, size, 3]`, of its own for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(coarse).resize((size, size), Image.BICUBIC)
    return np.asarray(image)


def save_picture(folder: pathlib.Path, name: str, image: np.ndarray) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def fill_folder(folder: pathlib.Path, names) -> None:
    for seed, name in enumerate(names):
        save_picture(folder, name, picture(seed))


def linear_encoder() -> keras.Model:
    """Projects the mean colors of rows, which mirroring does not change."""
    inputs = keras.Input([SIZE, SIZE, 3])
    outputs = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    outputs = keras.layers.AveragePooling2D((1, SIZE))(outputs)
    outputs = keras.layers.Flatten()(outputs)
    initializer = keras.initializers.RandomNormal(seed=0)
    outputs = keras.layers.Dense(
        32, use_bias=False, kernel_initializer=initializer
    )(outputs)
    return keras.Model(inputs, keras.layers.UnitNormalization()(outputs))


def training_rows(saved) -> np.ndarray:
    """The memory bank of a checkpoint, as training left it."""
    state = tf.train.load_checkpoint(str(saved.path / "state"))
    return state.get_tensor("memory_bank/.ATTRIBUTES/VARIABLE_VALUE")


def make_run(path, folder, flags: str = "") -> directory.RunDirectory:
    """A run directory whose rows are the encoded images of a folder."""
    text = (
        f"--images={folder}\n--image_size={SIZE}\n--crop_fraction=1.0\n"
        f"--objective=softmax\n--noflip\n--temperature=0.1\n{flags}"
    )
    run = opening.open_run(str(path), RunRecord(from_flagfile(text)))
    save_run(run, linear_encoder(), folder)
    return run


def save_run(run, encoder, folder) -> None:
    """Writes encoder and bank, the encoded images of the folder."""
    source = folder_source(str(folder), "skip")
    embedded = embed(encoder, evaluation_dataset(source, SIZE, 64))
    run.save_encoder(encoder)
    run.save_bank(
        Bank(
            rows=embedded.embeddings,
            instance_ids=embedded.instance_ids,
            names=np.array(
                [source.instance_name(int(i)) for i in embedded.instance_ids]
            ),
            labels=embedded.labels,
            class_names=source.class_names or (),
            encoded_by=EncodedBy(run.encoder_digest()),
        )
    )
