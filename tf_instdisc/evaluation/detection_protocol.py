"""Detection: compares a RetinaNet on the trained encoder and from scratch.

The paper fine-tunes Fast R-CNN and Faster R-CNN on VOC 2007 (in its section on
object detection), so its numbers cannot be compared with these.
"""

import dataclasses
from typing import TYPE_CHECKING

from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError, require_extra
from tf_instdisc.evaluation.protocol import Measurement, Protocol
from tf_instdisc.text import shown

if TYPE_CHECKING:
    from tf_instdisc.evaluation.inputs import EvaluationInputs

_ARMS = (("from scratch", False), ("pre-trained", True))
_METRICS = ("coco_map", "coco_ap50", "coco_ap75", "voc_map", "voc07_map")


@dataclasses.dataclass(frozen=True)
class DetectionOptions(Settings):
    """Detection

    A detector from scratch has no trained weights to keep, so all its layers
    are trained, including batch normalization.
    """

    dataset: str | None = setting(
        None,
        "TFDS dataset with boxes, such as voc/2007.",
        flag="detection_dataset",
    )
    images: str | None = setting(
        None,
        "Folder with Annotations, ImageSets and JPEGImages, instead of "
        "--detection_dataset.",
        is_path=True,
        flag="detection_images",
    )
    train_split: str | None = setting(
        None,
        "Training split; by default train+validation of a dataset, or "
        "trainval of a folder.",
        flag="detection_train_split",
    )
    test_split: str = setting(
        "test", "Test split.", flag="detection_test_split"
    )
    image_key: str = setting(
        "image",
        "Feature of --detection_dataset that holds the images.",
        flag="detection_image_key",
    )
    label_key: str = setting(
        "label",
        "Class label in the feature 'objects' of --detection_dataset.",
        flag="detection_label_key",
    )
    image_size: int = setting(
        512,
        "Side of the resized images in pixels; a multiple of 32.",
        least=32,
        flag="detection_image_size",
    )
    epochs: int = setting(
        12,
        "Epochs of a detector, which is measured after each epoch.",
        least=1,
        flag="detection_epochs",
    )
    batch_size: int = setting(
        16, "Images per batch.", least=1, flag="detection_batch_size"
    )
    learning_rate: float = setting(
        1e-3,
        "Peak learning rate of a detector (AdamW with cosine decay).",
        least=1e-9,
        flag="detection_learning_rate",
    )
    frozen_layers: tuple[str, ...] = setting(
        (),
        "Prefixes of layers of the trained encoder that are frozen, such as "
        "conv1,conv2. The detector from scratch has no frozen layers.",
    )
    frozen_batch_norm: bool = setting(
        False,
        "Freeze the batch norm of the trained encoder, but not from scratch.",
    )
    head_filters: int = setting(
        256,
        "Filters of the pyramid and the heads; RetinaNet has 256.",
        least=1,
        flag="detection_head_filters",
    )
    anchor_scale: float = setting(
        4.0,
        "Side of the smallest anchors of a level in strides. RetinaNet has 4; "
        "small objects need less.",
        least=0.1,
        flag="detection_anchor_scale",
    )
    seed: int = setting(
        0,
        "Random seed of new weights, the order of images and flips.",
        least=0,
        most=2**31 - 1,
        flag="detection_seed",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.dataset is None) == (self.images is None):
            raise UsageError(
                "Detection needs either a dataset or a folder of images "
                f"with boxes. Received: dataset={self.dataset!r}, "
                f"images={self.images!r}. Give `dataset` or `images`."
            )


class Detection(Protocol):
    """Mean average precision of a detector from scratch and a pre-trained one.

    Both start from the same heads and are trained on the same batches. The
    metrics of each epoch are kept in the run directory. The results are those
    after the last epoch, and their names end with the data: COCO's mean
    average precision (`coco_map`, `coco_ap50`, `coco_ap75`) and VOC's, both as
    the area under the curve (`voc_map`) and with eleven points as in VOC 2007
    (`voc07_map`).
    """

    name = "detection"
    reads_labels = False
    options_kind = DetectionOptions
    options: DetectionOptions

    def check(self, inputs: "EvaluationInputs") -> None:
        require_extra("detection", "pycocotools")

        from tf_instdisc.evaluation.detector_training import DetectionInputs
        from tf_instdisc.evaluation.retinanet import build_retinanet

        own = inputs.run.read_config().data
        data_dir = inputs.overrides.get("data_dir", own.data_dir)
        encoder = inputs.trainable_encoder
        self._inputs = DetectionInputs(encoder, self.options, data_dir)
        # Checks sizes and layer names before any image is read.
        build_retinanet(encoder, self.options, 1, pretrained=True)
        _ = self._inputs.sources

    def measure(self, inputs: "EvaluationInputs") -> list[Measurement]:
        import keras

        from tf_instdisc.evaluation.retinanet import build_retinanet

        train, test = self._inputs.sources
        classes = ", ".join(map(shown, train.class_names))
        print(
            f"detection: {train.num_images} images to train on, "
            f"{test.num_images} to measure on; {classes}"
        )
        lines: list[dict] = []
        for arm, pretrained in _ARMS:
            keras.utils.set_random_seed(self.options.seed)
            model = build_retinanet(
                inputs.trainable_encoder,
                self.options,
                len(train.class_names),
                pretrained,
            )
            for epoch, values in self._inputs.train(model):
                lines.append({"detector": arm, "epoch": epoch, **values})
                inputs.run.save_detection(lines)
                print(
                    f"{arm}, epoch {epoch}: loss {values['loss']:.3f}, COCO "
                    f"mAP {values['coco_map']:.3f}, VOC mAP "
                    f"{values['voc_map']:.3f}",
                    flush=True,
                )
        end = self._inputs.end
        return [
            Measurement(
                self.name, f"{line['detector']}{end}", metric, line[metric]
            )
            for line in lines
            if line["epoch"] == self.options.epochs
            for metric in _METRICS
        ]
