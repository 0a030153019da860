"""The input pipeline alone, for images of CIFAR's size and JPEGs at 224 pixels.

It is compared with the consumption of a ResNet-18 of width 64 in training, and
with the layers of keras_cv on batches. For JPEGs it is compared with a Pillow
loader that applies the transforms of torchvision: random resized crop, flip,
color jitter in random order, and grayscale.
"""

import argparse
import itertools
import math
import os
import pathlib
import random
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
    return lambda: next(batches)[0].numpy()


def layers(images):
    """Returns the augmentations of this package and of keras_cv by name.

    Only flips and grayscale conversion have the same definition in both.
    """
    size = images.shape[1]
    ours = Augmentation(image_size=size)
    cv = keras_cv.layers
    every = [
        cv.RandomCropAndResize((size, size), ours.crop_area, (3 / 4, 4 / 3)),
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


def pillow(paths, image_size):
    """Returns a function that loads a batch with Pillow in one thread."""
    from PIL import Image, ImageEnhance

    def crop_box(width, height):
        for _ in range(10):
            area = width * height * random.uniform(0.2, 1.0)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w = round(math.sqrt(area * ratio))
            h = round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                x, y = (
                    random.randint(0, width - w),
                    random.randint(0, height - h),
                )
                return x, y, x + w, y + h
        side = min(width, height)
        return 0, 0, side, side

    def rotate_hue(image):
        hue, saturation, value = image.convert("HSV").split()
        shift = round(random.uniform(-0.4, 0.4) * 255)
        hue = hue.point(lambda h: (h + shift) % 256)
        merged = Image.merge("HSV", (hue, saturation, value))
        return merged.convert("RGB")

    def enhance(enhancer):
        return lambda image: enhancer(image).enhance(random.uniform(0.6, 1.4))

    changes = [
        enhance(ImageEnhance.Brightness),
        enhance(ImageEnhance.Contrast),
        enhance(ImageEnhance.Color),
        rotate_hue,
    ]
    endless = itertools.cycle(paths)

    def load(path):
        with Image.open(path) as file:
            image = file.convert("RGB")
        size = (image_size, image_size)
        image = image.resize(
            size, Image.Resampling.BILINEAR, box=crop_box(*image.size)
        )
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for change in random.sample(changes, len(changes)):
            image = change(image)
        if random.random() < 0.2:
            image = image.convert("L").convert("RGB")
        return np.asarray(image, np.float32)

    def run():
        np.stack([load(path) for path in itertools.islice(endless, _BATCH)])

    return run


def some_jpegs(folder: pathlib.Path, number: int) -> list[str]:
    """Writes 500x375 JPEGs of smooth noise, for use without photographs."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for i in range(number):
        small = generator.integers(0, 256, [24, 32, 3], np.uint8)
        image = Image.fromarray(small).resize((500, 375))
        image.save(folder / f"{i}.jpg", quality=90)
    return sorted(map(str, folder.glob("*.jpg")))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
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
        if not options.images:
            some_jpegs(pathlib.Path(made_up), 8 if options.tiny else 200)
        jpegs = folder_source(folder)
        paths = [
            os.path.join(path, name)
            for path, _, names in os.walk(folder)
            for name in names
            if name.lower().endswith((".jpg", ".jpeg"))
        ]
        pipelines = {
            "32 px, from memory": lambda: pipeline(small, 32),
            "224 px, JPEG": lambda: pipeline(jpegs, 224),
        }
        if timing.optional("PIL"):
            pipelines["224 px, JPEG, Pillow"] = lambda: pillow(paths, 224)
        # Measured one after the other, as an idle pipeline fills its buffers.
        some = pixels[:_BATCH].astype(np.float32)
        batch = some, np.arange(_BATCH)
        consumer = step.whole("nce", *batch, width)
        speeds = {
            name: images_per_core_second(make(), num_batches)
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
