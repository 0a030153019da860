"""The input pipeline alone, for images of CIFAR's size and JPEGs at 224 pixels.

It is compared with the images that a ResNet-18 of width 64 consumes in
training, and with the layers of keras_cv on batches. In one thread, torchvision
and `tf.data` with the layers of keras_cv also load JPEGs, in their own size and
enlarged to 12 megapixels: random resized crop, flip, color jitter and
grayscale. Pillow's `draft` decodes at the fraction that the crop allows.
"decode only" is the least work of any such loader: it decodes at an eighth of
the size.
"""

import itertools
import math
import os
import pathlib
import tempfile
import time

import keras_cv
import numpy as np
import tensorflow as tf

from benchmarks import step, timing
from tf_instdisc import Augmentation, folder_source, training_dataset
from tf_instdisc.data import augment
from tf_instdisc.data.sources import array_source

_BATCH = 128


def pipeline(source, image_size):
    """Returns a function that takes a batch of the training pipeline."""
    dataset = training_dataset(
        source, Augmentation(image_size=image_size), _BATCH, epochs=10**6
    )
    batches = iter(dataset)
    return lambda: next(batches)


def layers(images):
    """Returns the augmentations of this package and of keras_cv by name.

    Only flips and grayscale conversion have the same definition in both.
    """
    size = images.shape[1]
    ours = Augmentation(image_size=size)
    area = (ours.min_crop_area, 1.0)
    cv = keras_cv.layers
    every = [
        cv.RandomCropAndResize((size, size), area, (3 / 4, 4 / 3)),
        cv.RandomColorJitter((0, 255), 0.4, 0.4, 0.4, 0.4),
        cv.RandomApply(cv.Grayscale(3), rate=0.2, batchwise=False),
        cv.RandomFlip("horizontal"),
    ]
    uniforms = tf.random.stateless_uniform(
        [len(images), augment.NUM_UNIFORMS], [0, 0]
    )

    def in_turn(names):
        def run(x):
            for layer in names:
                x = layer(x, training=True)
            return x

        return run

    functions = {
        "all four, tf_instdisc": lambda x: augment.augment(x, uniforms, ours),
        "all four, keras_cv": in_turn(every),
        "grayscale, tf_instdisc": lambda x: augment.random_grayscale(
            x, uniforms[:, -2], 0.2
        ),
        "grayscale, keras_cv": in_turn(every[2:3]),
        "flip, tf_instdisc": lambda x: augment.random_flip(x, uniforms[:, -1]),
        "flip, keras_cv": in_turn(every[3:]),
    }

    def taker(function):
        graph = tf.function(function)
        return lambda: graph(images).numpy()

    return {name: taker(function) for name, function in functions.items()}


def images_per_core_second(take, num_batches):
    """Returns the images per CPU second of all threads."""
    take()
    start = time.process_time()
    for _ in range(num_batches):
        take()
    return num_batches * _BATCH / (time.process_time() - start)


def torchvision(paths, image_size, with_draft=False):
    """Returns a function that loads a batch with torchvision in one thread."""
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)
    crop = transforms.RandomResizedCrop(image_size, scale=(0.2, 1.0))
    rest = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.4, 0.4, 0.4, 0.4),
            transforms.RandomGrayscale(0.2),
            transforms.PILToTensor(),
        ]
    )
    endless = itertools.cycle(paths)

    def load(path):
        with Image.open(path) as file:
            if not with_draft:
                return rest(crop(file.convert("RGB")))
            width, height = file.size
            top, left, rows, columns = crop.get_params(
                torch.empty(3, height, width), crop.scale, crop.ratio
            )
            size = math.ceil(width * image_size / columns)
            file.draft("RGB", (size, math.ceil(height * image_size / rows)))
            scale = file.width / width
            box = (left, top, left + columns, top + rows)
            image = file.convert("RGB").resize(
                (image_size, image_size),
                Image.Resampling.BILINEAR,
                box=[scale * edge for edge in box],
            )
            return rest(image)

    return lambda: torch.stack(
        [load(path) for path in itertools.islice(endless, _BATCH)]
    ).numpy()


def keras_layers(paths, image_size):
    """Returns a function that loads a batch by `tf.data` and keras_cv."""
    cv = keras_cv.layers
    crop = cv.RandomCropAndResize(
        (image_size, image_size), (0.2, 1.0), (3 / 4, 4 / 3)
    )
    rest = [
        cv.RandomColorJitter((0, 255), 0.4, 0.4, 0.4, 0.4),
        cv.RandomApply(cv.Grayscale(3), rate=0.2, batchwise=False),
        cv.RandomFlip("horizontal"),
    ]

    def load(path):
        return crop(tf.io.decode_jpeg(tf.io.read_file(path), 3), training=True)

    def augment_batch(images):
        for layer in rest:
            images = layer(images, training=True)
        return images

    dataset = tf.data.Dataset.from_tensor_slices(paths).repeat()
    dataset = dataset.map(load, 1).batch(_BATCH).map(augment_batch, 1)
    batches = iter(dataset)
    return lambda: next(batches)


def decode_only(paths):
    """Returns a function that decodes a batch at an eighth of its size."""
    endless = itertools.cycle(paths)

    def run():
        for path in itertools.islice(endless, _BATCH):
            tf.io.decode_jpeg(tf.io.read_file(path), 3, ratio=8).numpy()

    return run


def enlarged(paths, folder, number):
    """Writes photographs as JPEGs of 4000x3000 pixels; returns their paths."""
    from PIL import Image

    for i, path in enumerate(paths[:number]):
        with Image.open(path) as file:
            image = file.convert("RGB").resize((4000, 3000))
        image.save(folder / f"{i}.jpg", quality=90)
    return sorted(map(str, folder.glob("*.jpg")))


def jpegs(folder: str, is_tiny: bool) -> list[str]:
    """Returns the paths of the JPEGs below a folder.

    An empty one is filled with 500x375 JPEGs of smooth noise.
    """
    from PIL import Image

    if found := _below(folder):
        return found
    number = 8 if is_tiny else 200
    generator = np.random.default_rng(0)
    for i in range(number):
        small = generator.integers(0, 256, [24, 32, 3], np.uint8)
        image = Image.fromarray(small).resize((500, 375))
        image.save(f"{folder}/{i}.jpg", quality=90)
    return _below(folder)


def _below(folder: str) -> list[str]:
    return sorted(
        os.path.join(path, name)
        for path, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith((".jpg", ".jpeg"))
    )


def main() -> None:
    """Prints the table."""
    parser = timing.parser(__doc__)
    parser.add_argument(
        "--images", help="a folder of JPEGs; generated if omitted"
    )
    options = parser.parse_args()
    num_batches = 1 if options.tiny else 10
    width = 4 if options.tiny else 64
    pixels = np.random.default_rng(0).integers(0, 256, [50_000, 32, 32, 3])
    small = array_source(pixels.astype(np.uint8), None, None, "noise")
    with tempfile.TemporaryDirectory() as made_up:
        folder = options.images or made_up
        paths = jpegs(folder, options.tiny)
        encoded = folder_source(folder)
        photographs = pathlib.Path(made_up, "photographs")
        photographs.mkdir()
        number = 4 if options.tiny else 50
        large = enlarged(paths, photographs, number)
        pipelines = {
            "32 px, from memory": lambda: pipeline(small, 32),
            "224 px, JPEG": lambda: pipeline(encoded, 224),
            "224 px, JPEG, keras_cv": lambda: keras_layers(paths, 224),
            "224 px of 12 megapixels": lambda: pipeline(
                folder_source(str(photographs)), 224
            ),
            "decode only, 12 megapixels": lambda: decode_only(large),
        }
        if timing.optional("torchvision"):
            pipelines |= {
                "224 px, JPEG, torchvision": lambda: torchvision(paths, 224),
                "224 px of 12 megapixels, torchvision": lambda: torchvision(
                    large, 224
                ),
                "224 px of 12 megapixels, torchvision with draft": lambda: (
                    torchvision(large, 224, with_draft=True)
                ),
            }
        # Measured one after the other, as an idle pipeline fills its buffers.
        some = pixels[:_BATCH].astype(np.float32)
        batch = some, np.arange(_BATCH)
        consumer = step.whole("nce", *batch, width)
        speeds = {
            name: images_per_core_second(
                make(), min(num_batches, 4) if "mega" in name else num_batches
            )
            for name, make in pipelines.items()
        }
    consumed = images_per_core_second(consumer, min(num_batches, 3))
    speeds[f"consumed by ResNet-18 of width {width}"] = consumed
    timing.print_table(
        ["pipeline", "images/s for each core"],
        [[name, f"{speed:.0f}"] for name, speed in speeds.items()],
    )
    speeds = {
        name: images_per_core_second(take, num_batches)
        for name, take in layers(tf.constant(some)).items()
    }
    timing.print_table(
        ["batches of 128 at 32 px", "images/s for each core"],
        [[name, f"{speed:.0f}"] for name, speed in speeds.items()],
    )


if __name__ == "__main__":
    main()
