"""COCO's metrics of boxes and masks: cases by hand, and pycocotools' own way through files."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vertebra.backbones import InputError
from vertebra.tools.data.coco import Category, read_coco
from vertebra.tools.evaluation.coco import METRICS, CocoEvaluator
from vertebra.tools.evaluation.report import write_evaluation

CATEGORIES = (Category(1, "person"), Category(18, "dog"))


def output(*found: tuple[list[float], int, float]) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor([box for box, _, _ in found]).reshape(-1, 4),
        "labels": torch.tensor([label for _, label, _ in found], dtype=torch.int64),
        "scores": torch.tensor([score for _, _, score in found]),
    }


def test_perfect_detections(coco_document: dict[str, Any]) -> None:
    evaluator = CocoEvaluator(coco_document, CATEGORIES)
    # The crowd of persons covers image 7: the stray person on it is ignored, not a false alarm.
    evaluator.update(
        [7, 3], [output(([10, 20, 40, 35], 2, 0.9), ([30, 30, 70, 59], 1, 0.95)), output(([5.5, 5, 25.5, 14], 1, 0.8))]
    )
    metrics, summary = evaluator.compute()
    assert evaluator.results[0] == {
        "image_id": 7,
        "category_id": 18,
        "bbox": [10, 20, 30, 15],
        "score": pytest.approx(0.9),
    }
    # The box without area of image 3 stays in the ground truth, as pycocotools has it: half of the persons is found.
    person = 51 / 101  # precision 1 at the recalls 0 to 0.5
    assert metrics["bbox"]["AP"] == pytest.approx((1 + person) / 2)
    assert metrics["bbox"]["APl"] == -1
    assert len(summary.splitlines()) == 12


def test_ids_of_annotations_do_not_matter(coco_document: dict[str, Any]) -> None:
    """COCOeval takes an object with the id 0 for none, and two with the same id for one."""
    renamed = [{**a, "id": id} for a, id in zip(coco_document["annotations"], (0, 5, 5, 5), strict=True)]
    evaluator = CocoEvaluator({**coco_document, "annotations": renamed}, CATEGORIES)
    evaluator.update([7, 3], [output(([10, 20, 40, 35], 2, 0.9)), output(([5.5, 5, 25.5, 14], 1, 0.8))])
    assert evaluator.compute()[0]["bbox"]["AP"] == pytest.approx((1 + 51 / 101) / 2)


def test_no_detections(coco_document: dict[str, Any]) -> None:
    metrics, _ = CocoEvaluator(coco_document, CATEGORIES).compute()
    assert metrics["bbox"]["AP"] == metrics["bbox"]["AR100"] == 0


def test_equals_pycocotools_through_files_on_real_data(real_data: Path, tmp_path: Path) -> None:
    """Ground truth shifted and with random scores as detections: sparse ids, crowds, all sizes."""
    path = real_data / "coco_mini" / "annotations" / "instances_val2017.json"
    document = json.loads(path.read_text())
    categories = tuple(Category(c["id"], c["name"]) for c in document["categories"])
    label_of = {category.id: label for label, category in enumerate(categories, start=1)}
    evaluator = CocoEvaluator(document, categories)
    generator = torch.Generator().manual_seed(0)
    for image in document["images"]:
        found = []
        for a in document["annotations"]:
            if a["image_id"] == image["id"]:
                x, y, w, h = a["bbox"]
                dx, dy, score = (float(v) for v in torch.rand(3, generator=generator))
                box = [x + 0.3 * w * (dx - 0.5), y + 0.3 * h * (dy - 0.5), x + w, y + h]
                found.append((box, label_of[a["category_id"]], score))
        evaluator.update([image["id"]], [output(*found)])
    metrics, _ = evaluator.compute()
    (tmp_path / "results.json").write_text(json.dumps(evaluator.results))
    truth = COCO(str(path))
    reference = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert metrics["bbox"] == pytest.approx(dict(zip(METRICS, reference.stats, strict=True)), abs=1e-12)
    assert 0.2 < metrics["bbox"]["AP"] < 0.95
    assert set(metrics) == {"bbox", "bbox_AP"}
    by_class = reference.eval["precision"][:, :, :, 0, 2]
    means = {truth.cats[id]["name"]: by_class[:, :, k].mean() for k, id in enumerate(reference.params.catIds)}
    assert metrics["bbox_AP"] == pytest.approx({name: mean for name, mean in means.items() if mean > -1}, abs=1e-12)
    assert sum(metrics["bbox_AP"].values()) / len(metrics["bbox_AP"]) == pytest.approx(metrics["bbox"]["AP"])


def shifted(mask: np.ndarray, right: int, down: int) -> np.ndarray:
    return np.roll(mask, (down, right), (0, 1))


def masked_outputs(coco: COCO, *, far: int, form: str) -> dict[int, dict[str, Any]]:
    """Return the ground truth by image as a model would give it, moved by up to `far` pixels, with random scores.

    Crowds are among them. form: `dense` probabilities or `rle`.
    """
    rng = np.random.default_rng(0)
    label_of = {id: label for label, id in enumerate(sorted(coco.cats), start=1)}
    outputs = {}
    for id, record in coco.imgs.items():
        annotations = coco.imgToAnns[id]
        masks = [shifted(coco.annToMask(a), *rng.integers(-far, far + 1, 2)) for a in annotations]
        rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
        boxes = torch.tensor(np.array([coco_mask.toBbox(rle) for rle in rles])).reshape(-1, 4)
        dense = torch.tensor(np.array(masks, np.float32).reshape(-1, 1, record["height"], record["width"]))
        outputs[id] = {
            "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1).float(),
            "labels": torch.tensor([label_of[a["category_id"]] for a in annotations], dtype=torch.int64),
            "scores": torch.from_numpy(rng.random(len(annotations))).float(),
            "masks": rles if form == "rle" else 0.2 + 0.6 * dense,
        }
    return outputs


@pytest.mark.parametrize(("far", "form"), [(0, "rle"), (0, "dense"), (5, "rle")])
def test_masks_equal_pycocotools_on_real_data(real_data: Path, tmp_path: Path, far: int, form: str) -> None:
    """Polygons and crowds of COCO; the reference reads a results file of masks alone, so that it takes their areas."""
    path = real_data / "coco_mini" / "annotations" / "instances_val2017.json"
    truth = COCO(str(path))
    categories = tuple(Category(id, truth.cats[id]["name"]) for id in sorted(truth.cats))
    evaluator = CocoEvaluator(json.loads(path.read_text()), categories)
    outputs = masked_outputs(truth, far=far, form=form)
    evaluator.update(list(outputs), list(outputs.values()))
    metrics, summary = evaluator.compute()
    assert set(metrics) == {"bbox", "segm", "bbox_AP", "segm_AP"}
    assert summary.count("Average Precision") == 12
    for kind, other in (("bbox", "segmentation"), ("segm", "bbox")):
        results = [{key: value for key, value in r.items() if key != other} for r in evaluator.results]
        (tmp_path / "results.json").write_text(json.dumps(results))
        reference = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), kind)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
        assert metrics[kind] == pytest.approx(dict(zip(METRICS, reference.stats, strict=True)), abs=1e-12)
    assert metrics["segm"]["AP"] == pytest.approx(1) if far == 0 else 0.3 < metrics["segm"]["AP"] < 0.95


def test_objects_without_masks_are_left_out_of_their_metrics(
    coco_document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One object with a mask is found; the crowd and two others have none. All of them stay among the boxes."""
    dog = [[10, 20, 40, 20, 40, 35, 10, 35]]
    annotations = [{**a, **({"segmentation": dog} if a["id"] == 1 else {})} for a in coco_document["annotations"]]
    mask = np.zeros((60, 80), np.uint8, order="F")
    mask[20:35, 10:40] = 1
    evaluator = CocoEvaluator({**coco_document, "annotations": annotations}, CATEGORIES)
    evaluator.update([7], [{**output(([10, 20, 40, 35], 2, 0.9)), "masks": [coco_mask.encode(mask)]}])
    evaluator.update([3, 12], [{**output(), "masks": torch.zeros(0, 1, 60, 80)}] * 2)
    with caplog.at_level(logging.WARNING):
        metrics, _ = evaluator.compute()
    assert metrics["segm"]["AP"] == pytest.approx(1)
    assert metrics["bbox"]["AP"] == pytest.approx(0.5)  # the persons are not found
    (message,) = caplog.messages
    assert "3 objects without a mask are not counted in the metrics of masks (first: annotation id 2)" in message


def test_nothing_found_has_both_metrics(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An untrained model may find nothing at all. What pycocotools prints is returned, not printed."""
    data = read_coco(shapes / "annotations" / "val.json", shapes / "val")
    evaluator = CocoEvaluator(data.document, data.categories)
    evaluator.update([1], [{**output(), "masks": []}])
    metrics, summary = evaluator.compute()
    assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == 0
    assert [len(part.splitlines()) for part in summary.split("masks:")] == [13, 13]
    assert capsys.readouterr().out == ""


def test_boundaries_are_measured_where_they_are_asked_for(shapes: Path) -> None:
    """Between the masks' 1 and nothing: an object is found with the pixels around it."""
    truth = COCO(str(shapes / "annotations" / "val.json"))
    document = json.loads((shapes / "annotations" / "val.json").read_text())
    categories = tuple(Category(id, truth.cats[id]["name"]) for id in sorted(truth.cats))
    for boundary in (False, True):
        evaluator = CocoEvaluator(document, categories, boundary=boundary)
        assert evaluator.kinds == ("bbox",)
        outputs = masked_outputs(truth, far=1, form="rle")
        evaluator.update(list(outputs), list(outputs.values()))
        assert evaluator.kinds == ("bbox", "segm", "boundary")[: 2 + boundary]
    metrics, summary = evaluator.compute()
    assert list(metrics) == ["bbox", "segm", "boundary", "bbox_AP", "segm_AP", "boundary_AP"]
    assert 0 < metrics["boundary"]["AP"] < metrics["segm"]["AP"]
    assert [line for line in summary.splitlines() if line.endswith(":")] == ["boxes:", "masks:", "boundaries of masks:"]


@pytest.mark.parametrize("reference", [False, True])
def test_the_number_of_detections_that_count(reference: bool) -> None:
    """Of 150 of one score the right one comes last."""
    document = {
        "images": [{"id": 1, "height": 99, "width": 99}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [50, 50, 20, 20]}],
    }
    boxes = [[0, 0, 9, 9]] * 149 + [[50, 50, 20, 20]]
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5} for box in boxes]
    for most, found in ((100, 0), (149, 0), (150, 1), (300, 1)):
        evaluator = CocoEvaluator(document, [Category(1, "a")], max_dets=(1, 10, most), reference=reference)
        evaluator.add(results)
        metrics, summary = evaluator.compute()
        assert metrics["bbox"]["AP"] == pytest.approx(found / 150)
        assert metrics["bbox"][f"AR{most}"] == found
        assert metrics["bbox"]["AR10"] == 0
        assert summary.count(f"maxDets={most}") == 10


@pytest.mark.parametrize("max_dets", [(), (10, 1), (0, 10), (1, 1, 2), (1, 2.5), (-1,)])
def test_numbers_of_detections_that_do_not_ascend(max_dets: Any, coco_document: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="ascending whole numbers from 1 on are expected, such as 1, 10, 300"):
        CocoEvaluator(coco_document, CATEGORIES, max_dets=max_dets)


def test_records_are_the_callers_own(shapes: Path) -> None:
    """They have what COCOeval reads, and are no part of the evaluator or the document."""
    data = read_coco(shapes / "annotations" / "val.json", shapes / "val")
    truth = COCO(str(shapes / "annotations" / "val.json"))
    evaluator = CocoEvaluator(data.document, data.categories)
    outputs = masked_outputs(truth, far=2, form="rle")
    evaluator.update(list(outputs), list(outputs.values()))
    before = evaluator.compute()
    for kind, shape in (("bbox", "bbox"), ("segm", "segmentation")):
        for records in (evaluator.truth(kind), evaluator.found(kind)):
            assert [record["id"] for record in records] == list(range(1, len(records) + 1))
            assert all(shape in record and "area" in record and record["iscrowd"] in (0, 1) for record in records)
            for record in records:
                record.clear()
    assert [r["score"] for r in evaluator.found("segm")] == [r["score"] for r in evaluator.results]
    evaluator.update([], [])
    assert evaluator.compute() == before


def test_scores_are_measured_once_until_there_are_others(coco_document: dict[str, Any]) -> None:
    evaluator = CocoEvaluator(coco_document, CATEGORIES)
    evaluator.update([7], [output(([10, 20, 40, 35], 2, 0.9))])
    first = evaluator.scores("bbox")
    assert evaluator.scores("bbox") is first
    evaluator.update([3], [output(([5.5, 5, 25.5, 14], 1, 0.8))])
    assert evaluator.scores("bbox").totals["AP"] > first.totals["AP"]


def test_what_an_evaluation_of_masks_leaves(shapes: Path, tmp_path: Path) -> None:
    data = read_coco(shapes / "annotations" / "val.json", shapes / "val")
    truth = COCO(str(shapes / "annotations" / "val.json"))
    outputs = masked_outputs(truth, far=0, form="rle")
    for name, keys in (("boxes", 3), ("masks", 4)):
        evaluator = CocoEvaluator(data.document, data.categories)
        evaluator.update(list(outputs), [dict(list(found.items())[:keys]) for found in outputs.values()])
        write_evaluation(tmp_path / name, evaluator, [("first", torch.zeros(3, 8, 8, dtype=torch.uint8))])
    metrics = json.loads((tmp_path / "masks" / "metrics.json").read_text())
    assert set(metrics) == {"bbox", "segm", "bbox_AP", "segm_AP", "summary"}
    assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == pytest.approx(1)
    results = json.loads((tmp_path / "masks" / "predictions.json").read_text())
    assert results[0]["segmentation"] == data.document["annotations"][0]["segmentation"]
    boxes = json.loads((tmp_path / "boxes" / "metrics.json").read_text())
    assert set(boxes) == {"bbox", "bbox_AP", "summary"}
    assert boxes["bbox"] == metrics["bbox"]
    assert "segmentation" not in json.loads((tmp_path / "boxes" / "predictions.json").read_text())[0]
    assert all((tmp_path / name / "pictures" / "first.jpg").stat().st_size > 0 for name in ("boxes", "masks"))
