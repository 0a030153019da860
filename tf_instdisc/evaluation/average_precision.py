"""Average precision of detections, as defined by PASCAL VOC and COCO.

VOC's is computed here as in its development kit (Everingham et al. 2010,
section 4.2). COCO's is computed by pycocotools, the reference implementation.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_instdisc.data.detection_source import Objects
from tf_instdisc.errors import require_extra

if TYPE_CHECKING:
    from pycocotools.coco import COCO

MAX_DETECTIONS = 100
"""Maximum number of detections per image that COCO counts."""
_IOU_THRESHOLD = 0.5  # Of VOC.


@dataclasses.dataclass(frozen=True)
class Detections:
    """The detections in one image.

    Attributes:
        boxes: float32 `[num_detections, 4]`: the left, top, right and bottom
            edge in pixels of the stored image.
        classes: int64 `[num_detections]`.
        scores: float32 `[num_detections]`; higher is more confident.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def voc_average_precision(
    objects: Sequence[Objects],
    detections: Sequence[Detections],
    num_classes: int,
    *,
    eleven_points: bool = False,
) -> np.ndarray:
    """Returns VOC's average precision of each class.

    The highest-scoring detection of an object is correct if their intersection
    over union reaches 0.5; any other detection of the same object is
    wrong. Detections of difficult objects do not count.

    Args:
        objects: One for each image.
        detections: One for each image, in the same order.
        eleven_points: Whether to average the best precision at recalls of
            0, 0.1 .. 1, as VOC did up to 2009, instead of computing the area
            under the curve.

    Returns:
        float64 `[num_classes]` in [0, 1]; NaN for classes without objects.
    """
    values = np.full([num_classes], np.nan)
    for label in range(num_classes):
        num_objects = sum(
            int(np.sum((o.classes == label) & ~o.difficult)) for o in objects
        )
        if num_objects:
            is_true_positive = _match(objects, detections, label)
            true_positives = np.cumsum(is_true_positive)
            precision = true_positives / np.arange(1, len(true_positives) + 1)
            average = _eleven_points if eleven_points else _area
            values[label] = average(true_positives, precision, num_objects)
    return values


def coco_average_precision(
    objects: Sequence[Objects],
    detections: Sequence[Detections],
    num_classes: int,
) -> dict[str, float]:
    """Returns COCO's mean average precision, computed by pycocotools.

    Difficult objects are treated as COCO's crowds: detections inside them do
    not count.

    Args:
        objects: One for each image.
        detections: One for each image, in the same order. Only the 100
            highest-scoring ones of an image count.

    Returns:
        `coco_map`, the mean over IoU thresholds of 0.50, 0.55 .. 0.95,
        `coco_ap50` and `coco_ap75`, each in [0, 1]; NaN if there are no
        objects.

    Raises:
        MissingExtraError: If the extra `detection` is not installed.
    """
    require_extra("detection", "pycocotools")
    from pycocotools.cocoeval import COCOeval

    # pycocotools reports its progress on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _to_coco(
                objects,
                num_classes,
                lambda o, i: {"iscrowd": int(o.difficult[i])},
            ),
            _to_coco(
                detections,
                num_classes,
                lambda d, i: {"iscrowd": 0, "score": float(d.scores[i])},
            ),
            "bbox",
        )
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    # [thresholds, recalls, classes]; -1 for classes without objects.
    precision = evaluation.eval["precision"][..., 0, 0]
    known = precision[:, :, precision[0, 0] > -1]

    def mean(values: np.ndarray) -> float:
        return float(values.mean()) if values.size else float("nan")

    return {
        "coco_map": mean(known),
        "coco_ap50": mean(known[0]),
        "coco_ap75": mean(known[5]),
    }


def _to_coco(
    entries: Sequence[Objects | Detections],
    num_classes: int,
    extras: Callable[[Any, int], dict[str, float]],
) -> "COCO":
    """Converts boxes to pycocotools' format, adding `extras` to each."""
    from pycocotools.coco import COCO

    annotations: list[dict[str, Any]] = []
    for image, entry in enumerate(entries):
        left, top, right, bottom = entry.boxes.reshape(-1, 4).T
        width, height = right - left, bottom - top
        boxes = np.stack([left, top, width, height], axis=-1)
        for i, box in enumerate(boxes.tolist()):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(entry.classes[i]),
                    "bbox": box,
                    "area": box[2] * box[3],
                    **extras(entry, i),
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(len(entries))],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _match(
    objects: Sequence[Objects],
    detections: Sequence[Detections],
    label: int,
) -> np.ndarray:
    """Returns whether each counted detection is correct.

    They are in descending order of score.
    """
    found = [
        (score, image, index)
        for image, entry in enumerate(detections)
        for index, score in enumerate(entry.scores)
        if entry.classes[index] == label
    ]
    found.sort(key=lambda entry: -entry[0])
    is_taken = [np.zeros(len(entry.classes), bool) for entry in objects]
    is_true_positive = []
    for _, image, index in found:
        entry = objects[image]
        candidates = np.flatnonzero(entry.classes == label)
        overlaps = intersection_over_union(
            detections[image].boxes[index], entry.boxes[candidates]
        )
        best = int(np.argmax(overlaps)) if len(candidates) else -1
        if best < 0 or overlaps[best] < _IOU_THRESHOLD:
            is_true_positive.append(False)
            continue
        nearest = candidates[best]
        if entry.difficult[nearest]:
            continue
        is_true_positive.append(not is_taken[image][nearest])
        is_taken[image][nearest] = True
    return np.array(is_true_positive, bool)


def intersection_over_union(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the IoU of a box `[4]` with boxes `[count, 4]`, float64."""
    box = box.astype(np.float64)
    boxes = boxes.astype(np.float64)
    shared = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(
        box[:2], boxes[:, :2]
    )
    intersection = np.prod(np.maximum(shared, 0), axis=-1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    return intersection / (np.prod(box[2:] - box[:2]) + areas - intersection)


def _eleven_points(
    true_positives: np.ndarray, precision: np.ndarray, num_objects: int
) -> float:
    best = [
        # In integers: as a float, 0.3 exceeds a recall of 3 out of 10.
        np.max(
            precision[10 * true_positives >= tenth * num_objects], initial=0.0
        )
        for tenth in range(11)
    ]
    return float(np.mean(best))


def _area(
    true_positives: np.ndarray, precision: np.ndarray, num_objects: int
) -> float:
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(
        np.sum(np.diff(true_positives, prepend=0) * best) / num_objects
    )
