"""Detection: a RetinaNet on the trained encoder, against one from scratch.

The paper fine-tunes Fast R-CNN and Faster R-CNN on VOC 2007 (its section on
object detection), so that none of its numbers stands beside these.
"""

import dataclasses
from typing import TYPE_CHECKING

from tf_instdisc.config.fields import check, setting
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation.measurement import Measurement
from tf_instdisc.evaluation.protocol import Protocol
from tf_instdisc.text import shown

if TYPE_CHECKING:
    from tf_instdisc.evaluation.detector_training import DetectionInputs
    from tf_instdisc.evaluation.inputs import RunImages

_ARMS = (("from scratch", False), ("pre-trained", True))
_METRICS = ("coco_map", "coco_ap50", "coco_ap75", "voc_map", "voc07_map")


@dataclasses.dataclass(frozen=True)
class DetectionOptions:
    """Detection

    A detector from scratch has nothing to keep: it trains all layers and
    batch norm.
    """

    dataset: str | None = setting(
        None,
        "TFDS data set with boxes, such as voc/2007.",
        flag="detection_dataset",
    )
    images: str | None = setting(
        None,
        "Folder with Annotations, ImageSets and JPEGImages, in place of "
        "--detection_dataset.",
        is_path=True,
        flag="detection_images",
    )
    train_split: str | None = setting(
        None,
        "Split to train detectors on; by default train+validation of a data "
        "set, trainval of a folder.",
        flag="detection_train_split",
    )
    test_split: str = setting(
        "test", "Split to measure detectors on.", flag="detection_test_split"
    )
    data_dir: str | None = setting(
        None,
        "Where TFDS keeps --detection_dataset; by default --data_dir, or the "
        "run's.",
        is_path=True,
        flag="detection_data_dir",
    )
    image_key: str = setting(
        "image",
        "Feature of --detection_dataset that holds the images.",
        flag="detection_image_key",
    )
    label_key: str = setting(
        "label",
        "Class in the feature 'objects' of --detection_dataset.",
        flag="detection_label_key",
    )
    image_size: int = setting(
        512,
        "Side in pixels to which images are resized; a multiple of 32.",
        least=32,
        flag="detection_image_size",
    )
    epochs: int = setting(
        12,
        "Epochs of a detector; it is measured after each.",
        least=1,
        flag="detection_epochs",
    )
    batch_size: int = setting(
        16, "Images in a batch.", least=1, flag="detection_batch_size"
    )
    learning_rate: float = setting(
        1e-3,
        "Highest learning rate of a detector (AdamW; it falls along a cosine).",
        least=1e-9,
        flag="detection_learning_rate",
    )
    frozen_layers: tuple[str, ...] = setting(
        (),
        "Layers of the trained encoder that the detector leaves as they are, "
        "by how their names begin: conv1,conv2. Not from scratch.",
    )
    frozen_batch_norm: bool = setting(
        False,
        "Leave batch norm of the trained encoder as it is. Not from scratch.",
    )
    head_filters: int = setting(
        256,
        "Filters of pyramid and heads; 256 is RetinaNet's.",
        least=1,
        flag="detection_head_filters",
    )
    anchor_scale: float = setting(
        4.0,
        "Side of the smallest anchors of a level, in its strides; 4 is "
        "RetinaNet's, small objects need less.",
        least=0.1,
        flag="detection_anchor_scale",
    )
    seed: int = setting(
        0,
        "Seeds new weights, the order of images and flips.",
        least=0,
        most=2**31 - 1,
        flag="detection_seed",
    )

    def __post_init__(self) -> None:
        check(self)
        if (self.dataset is None) == (self.images is None):
            raise UsageError(
                "Detection needs either a data set or a folder of images "
                f"with boxes. Received: dataset={self.dataset!r}, "
                f"images={self.images!r}. Give --detection_dataset or "
                "--detection_images."
            )


class Detection(Protocol):
    """Mean average precision of a detector from scratch and a pre-trained one.

    Both begin with the same heads and see the same batches. Metrics of each
    epoch are kept in the run directory. Measured, after the last epoch, are
    COCO's mean average precision (`coco_map`, `coco_ap50`, `coco_ap75`) and
    VOC's: the area below the curve (`voc_map`), and eleven points as in VOC
    2007 (`voc07_map`).
    """

    name = "detection"
    options_kind = DetectionOptions
    options: DetectionOptions

    def open(self, images: "RunImages") -> "DetectionInputs":
        from tf_instdisc.evaluation import average_precision
        from tf_instdisc.evaluation.detector_training import DetectionInputs
        from tf_instdisc.runs.load import load_encoder

        average_precision.require_pycocotools()
        data_dir = (
            self.options.data_dir
            or images.overrides.get("data_dir")
            or images.run.read_config().data.data_dir
        )
        options = dataclasses.replace(self.options, data_dir=data_dir)
        encoder = load_encoder(images.run.path)
        return DetectionInputs(images.run, encoder, options)

    def check(self, inputs: "DetectionInputs") -> None:
        # Sizes and names of layers, before any image is read.
        inputs.build(num_classes=1, pretrained=True)
        _ = inputs.sources

    def measure(self, inputs: "DetectionInputs") -> list[Measurement]:
        import keras

        train, test = inputs.sources
        classes = ", ".join(map(shown, train.class_names))
        print(
            f"detection: {train.num_images} images to train on, "
            f"{test.num_images} to measure on; {classes}"
        )
        lines: list[dict] = []
        for arm, pretrained in _ARMS:
            keras.utils.set_random_seed(self.options.seed)
            model = inputs.build(len(train.class_names), pretrained)
            for epoch, values in inputs.train(model):
                lines.append({"detector": arm, "epoch": epoch, **values})
                inputs.run.save_detection(lines)
                print(
                    f"{arm}, epoch {epoch}: loss {values['loss']:.3f}, COCO "
                    f"mAP {values['coco_map']:.3f}, VOC mAP "
                    f"{values['voc_map']:.3f}",
                    flush=True,
                )
        return [
            Measurement(self.name, line["detector"], metric, line[metric])
            for line in lines
            if line["epoch"] == self.options.epochs
            for metric in _METRICS
        ]
