"""Average precision compared with hand-computed values and pycocotools."""

import json

import numpy as np
import pytest

from tf_instdisc.data.detection_source import Objects
from tf_instdisc.evaluation import average_precision
from tf_instdisc.evaluation.average_precision import Detections

# Far apart, each of 10 x 10 pixels.
PLACES = [(20 * i, 0, 20 * i + 10, 10) for i in range(12)]


def wanted(*boxes, classes=None, difficult=()):
    return Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes or [0] * len(boxes), np.int64),
        np.array([i in difficult for i in range(len(boxes))], bool),
    )


def found(*scored, classes=None):
    """Detections of (box, score)."""
    return Detections(
        np.array([box for box, _ in scored], np.float32).reshape(-1, 4),
        np.array(classes or [0] * len(scored), np.int64),
        np.array([score for _, score in scored], np.float32),
    )


def both(objects, detections, num_classes=1):
    return [
        average_precision.voc_average_precision(
            objects, detections, num_classes, eleven_points=eleven_points
        )
        for eleven_points in (False, True)
    ]


def test_voc_of_a_hand_computed_case():
    # Right, wrong, right, and the first object once more, over two images:
    # precision 1, 1/2, 2/3, 1/2 at recalls 1/3, 1/3, 2/3, 2/3.
    objects = [wanted(PLACES[0]), wanted(PLACES[1], PLACES[2])]
    detections = [
        found((PLACES[0], 0.9), (PLACES[0], 0.6), (PLACES[3], 0.8)),
        found((PLACES[1], 0.7)),
    ]
    area, points = both(objects, detections)
    assert area == pytest.approx([1 / 3 + 2 / 9])
    assert points == pytest.approx([(4 * 1 + 3 * 2 / 3) / 11])


def test_voc_does_not_count_difficult_objects():
    objects = [wanted(PLACES[0], PLACES[1], difficult=[1])]
    # Both detections of the difficult object have the highest scores.
    detections = [found((PLACES[1], 0.9), (PLACES[1], 0.8), (PLACES[0], 0.7))]
    assert both(objects, detections) == [pytest.approx([1]), pytest.approx([1])]


@pytest.mark.parametrize(("height", "right"), [(5, 1.0), (4, 0.0)])
def test_an_overlap_of_a_half_is_enough(height, right):
    objects = [wanted((0, 0, 10, 10))]
    detections = [found(((0, 0, 10, height), 0.5))]
    assert both(objects, detections) == [[right], [right]]


def test_recall_of_three_in_ten_reaches_the_point_at_0_3():
    objects = [wanted(*PLACES[:10])]
    detections = [found(*((place, 0.5) for place in PLACES[:3]))]
    _, points = both(objects, detections)
    assert points == pytest.approx([4 / 11])


def test_voc_without_detections_and_without_objects():
    area, points = both(
        [wanted(PLACES[0]), wanted()], [found(), found((PLACES[0], 0.5))], 2
    )
    np.testing.assert_array_equal(area, [0, np.nan])
    np.testing.assert_array_equal(points, [0, np.nan])


def test_coco_of_a_hand_computed_case():
    # An overlap of 0.76 is right at 6 of the 10 thresholds; no object of the
    # second class is found; the third class has no objects.
    objects = [
        wanted((0, 0, 100, 100)),
        wanted((0, 0, 50, 50), classes=[1]),
    ]
    detections = [
        found(((0, 0, 100, 76), 0.9)),
        found(((0, 0, 50, 50), 0.9), classes=[2]),
    ]
    values = average_precision.coco_average_precision(objects, detections, 3)
    assert values == pytest.approx(
        {"coco_map": 0.3, "coco_ap50": 0.5, "coco_ap75": 0.5}
    )


def test_coco_does_not_count_difficult_objects():
    objects = [wanted(PLACES[0], PLACES[1], difficult=[1])]
    detections = [found((PLACES[1], 0.9), (PLACES[0], 0.7))]
    values = average_precision.coco_average_precision(objects, detections, 1)
    assert values["coco_map"] == pytest.approx(1)


def test_coco_without_detections_and_without_objects():
    def coco_map(objects, detections):
        return average_precision.coco_average_precision(objects, detections, 1)[
            "coco_map"
        ]

    assert coco_map([wanted(PLACES[0])], [found()]) == 0
    assert np.isnan(coco_map([wanted()], [found((PLACES[0], 0.5))]))


def random_case(seed, images=6, num_classes=3):
    """Objects, and detections that are moved, doubled, missed or made up."""
    rng = np.random.default_rng(seed)
    objects, detections = [], []
    for _ in range(images):
        count = rng.integers(0, 5)
        corners = rng.integers(0, 200, (count, 2))
        sides = rng.integers(20, 60, (count, 2))
        boxes = np.concatenate([corners, corners + sides], axis=1)
        classes = rng.integers(0, num_classes, count)
        difficult = rng.random(count) < 0.2
        objects.append(Objects(boxes.astype(np.float32), classes, difficult))
        kept = rng.integers(0, max(count, 1), 8 if count else 0)
        moved = boxes[kept] + rng.normal(0, 5, (len(kept), 4))
        made_up = rng.integers(0, 200, (4, 4))
        made_up[:, 2:] = made_up[:, :2] + 40
        all_boxes = np.concatenate([moved, made_up])
        all_classes = [*classes[kept], *rng.integers(0, num_classes, 4)]
        scores = rng.permutation(len(all_boxes)) / 20 + rng.random() / 100
        detections.append(
            Detections(
                all_boxes.astype(np.float32),
                np.array(all_classes, np.int64),
                scores.astype(np.float32),
            )
        )
    return objects, detections


def overlap(a, b):
    a, b = a.tolist(), b.tolist()
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def voc_by_loops(objects, detections, label, eleven_points):
    ranked = []
    for image, entry in enumerate(detections):
        for box, own, score in zip(
            entry.boxes, entry.classes, entry.scores, strict=True
        ):
            if own == label:
                ranked.append((-score, image, box))
    ranked.sort(key=lambda item: item[0])
    total = sum(
        own == label and not hard
        for entry in objects
        for own, hard in zip(entry.classes, entry.difficult, strict=True)
    )
    if not total:
        return float("nan")
    taken, right, wrong, curve = set(), 0, 0, []
    for _, image, box in ranked:
        best, best_overlap = None, 0.0
        for i, other in enumerate(objects[image].boxes):
            if objects[image].classes[i] == label:
                value = overlap(box, other)
                if value > best_overlap:
                    best, best_overlap = i, value
        if best_overlap >= 0.5 and objects[image].difficult[best]:
            continue
        if best_overlap >= 0.5 and (image, best) not in taken:
            taken.add((image, best))
            right += 1
        else:
            wrong += 1
        curve.append((right / total, right / (right + wrong)))
    if eleven_points:
        return (
            sum(
                max([p for r, p in curve if r >= i / 10 - 1e-9], default=0)
                for i in range(11)
            )
            / 11
        )
    area, before = 0.0, 0.0
    for recall, _ in curve:
        if recall > before:
            area += (recall - before) * max(p for r, p in curve if r >= recall)
            before = recall
    return area


@pytest.mark.parametrize("seed", range(10))
def test_voc_equals_loops(seed):
    objects, detections = random_case(seed)
    for eleven_points in (False, True):
        values = average_precision.voc_average_precision(
            objects, detections, 3, eleven_points=eleven_points
        )
        expected = [
            voc_by_loops(objects, detections, label, eleven_points)
            for label in range(3)
        ]
        np.testing.assert_allclose(values, expected)
    assert 0.05 < np.nanmean(values) < 0.95


@pytest.mark.parametrize("seed", range(3))
def test_coco_equals_pycocotools_on_files(seed, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    objects, detections = random_case(seed)

    def width_and_height(box):
        left, top, right, bottom = box.tolist()
        return [left, top, right - left, bottom - top]

    annotations, results = [], []
    for image, (entry, own) in enumerate(zip(objects, detections, strict=True)):
        for i, box in enumerate(entry.boxes):
            bbox = width_and_height(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(entry.classes[i]),
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": int(entry.difficult[i]),
                }
            )
        for i, box in enumerate(own.boxes):
            results.append(
                {
                    "image_id": image,
                    "category_id": int(own.classes[i]),
                    "bbox": width_and_height(box),
                    "score": float(own.scores[i]),
                }
            )
    (tmp_path / "truth.json").write_text(
        json.dumps(
            {
                "images": [{"id": image} for image in range(len(objects))],
                "categories": [{"id": label} for label in range(3)],
                "annotations": annotations,
            }
        )
    )
    (tmp_path / "found.json").write_text(json.dumps(results))
    truth = coco.COCO(str(tmp_path / "truth.json"))
    evaluation = cocoeval.COCOeval(
        truth, truth.loadRes(str(tmp_path / "found.json")), "bbox"
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    values = average_precision.coco_average_precision(objects, detections, 3)
    np.testing.assert_allclose(list(values.values()), evaluation.stats[:3])
    assert 0.05 < values["coco_map"] < 0.95
    assert capsys.readouterr().out == ""
