"""`vertebra benchmark data`: both pipelines do the same work, and the figures are complete."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torchvision import tv_tensors

from vertebra.tools import data_parts, data_peer, data_speed
from vertebra.tools.config import read_data
from vertebra.tools.data.transforms import Transforms

Command = Callable[..., Any]
KEYS = ("boxes", "labels", "masks")


@pytest.fixture
def case(workplace: Path) -> data_speed.Case:
    transforms = Transforms(short=96, longest=120)
    return data_speed.Case(read_data("data.yaml"), KEYS, transforms, batch_size=2, samples=8, repeats=2)


def dense(masks: Any) -> torch.Tensor:
    return masks if isinstance(masks, torch.Tensor) else masks.dense()


def test_all_pipelines_give_the_same(case: data_speed.Case) -> None:
    """But for the flips, which each draws for itself: sizes, boxes, labels and masks of the same images."""
    *references, ours = data_speed.contestants(case)
    assert [reference.name for reference in references] == ["torchvision, Pillow", "torchvision, tensors"]
    labels = {category: label for label, category in enumerate((1, 3, 4, 7), start=1)}
    for position in range(8):
        pixels, target = ours.stream[position]
        for reference in references:
            theirs, found = reference.stream[position]
            assert (theirs.shape, theirs.dtype) == (pixels.shape, torch.uint8)
            assert found["image_id"] == int(target["image_id"])
            assert [labels[int(category)] for category in found["labels"]] == target["labels"].tolist()
            masks = dense(target["masks"])
            assert found["masks"].shape == masks.shape
            same = [mask.flip(-1) if flipped else mask for flipped in (False, True) for mask in [found["masks"]]]
            agreement = max(float((mask == masks).float().mean()) for mask in same)
            assert agreement > 0.99
            width = pixels.shape[2]
            mirrored = torch.tensor([width, 0, width, 0]) + found["boxes"][:, [2, 1, 0, 3]] * torch.tensor(
                [-1, 1, -1, 1]
            )
            distance = min(float((boxes - target["boxes"]).abs().max()) for boxes in (found["boxes"], mirrored))
            assert distance < 1e-3
            means = [float(image.float().mean()) for image in (theirs, pixels)]
            assert means[0] == pytest.approx(means[1], abs=1)


def test_a_fixed_size_crop_pads_small_images() -> None:
    target = {
        "boxes": tv_tensors.BoundingBoxes([[1.0, 1, 3, 2]], format="XYXY", canvas_size=(3, 4)),
        "labels": torch.tensor([5]),
        "masks": tv_tensors.Mask(torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]], dtype=torch.uint8)),
    }
    image = tv_tensors.Image(torch.full((3, 3, 4), 9, dtype=torch.uint8))
    padded, shown = data_peer.FixedSizeCrop((5, 6))(image, target)
    assert padded.shape == (3, 5, 6)
    assert (padded[:, :3, :4] == 9).all()
    assert padded[:, 4, 5].tolist() == [124, 116, 104]
    assert shown["boxes"].tolist() == [[1, 1, 3, 2]]
    assert shown["boxes"].canvas_size == (5, 6)
    assert shown["masks"].shape == (1, 5, 6)
    assert shown["masks"].sum() == 2


def test_a_fixed_size_crop_takes_a_part_of_large_images() -> None:
    """A box goes with the pixel that it is around, or goes away with it."""
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        pixels = torch.arange(20, dtype=torch.uint8).reshape(1, 4, 5).repeat(3, 1, 1)
        target = {
            "boxes": tv_tensors.BoundingBoxes([[2.0, 1, 3, 2]], format="XYXY", canvas_size=(4, 5)),  # of the value 7
            "labels": torch.tensor([5]),
            "masks": tv_tensors.Mask((pixels[:1] == 7).to(torch.uint8)),
        }
        part, shown = data_peer.FixedSizeCrop((2, 2))(tv_tensors.Image(pixels), target)
        assert part.shape == (3, 2, 2)
        there = bool((part[0] == 7).any())
        assert len(shown["boxes"]) == len(shown["labels"]) == len(shown["masks"]) == int(there)
        seen.add(int(part[0, 0, 0]))
        if there:
            x1, y1, x2, y2 = shown["boxes"][0].int().tolist()
            assert (part[0, y1:y2, x1:x2] == 7).all()
            assert torch.equal(shown["masks"][0], (part[0] == 7).to(torch.uint8))
    assert len(seen) == 12  # corners


def test_large_scale_jitter_gives_the_same_size(case: data_speed.Case) -> None:
    jittered = data_speed.Case(case.data, KEYS, Transforms("lsj"), batch_size=1, samples=3, repeats=1)
    for contestant in data_speed.contestants(jittered):
        for position in range(3):
            pixels, target = contestant.stream[position]
            assert (pixels.shape, pixels.dtype) == ((3, 1024, 1024), torch.uint8)
            assert dense(target["masks"]).shape == (len(target["boxes"]), 1024, 1024)
            sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
            assert bool((sides >= 1).all())


def test_each_pass_goes_on_in_the_stream() -> None:
    passes = data_speed.Passes(5, 2)
    assert [list(passes), list(passes)] == [[[0, 1], [2, 3], [4]], [[5, 6], [7, 8], [9]]]


def test_images_without_objects_and_crowds_are_left_out(
    coco_folder: Path, coco_document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(coco_folder)
    split = "{images: images, annotations: instances.json}"
    Path("own.yaml").write_text(f"data: {{root: ., train: {split}, val: {split}}}\n")
    transforms = Transforms(short=60, longest=80)
    case = data_speed.Case(read_data("own.yaml"), KEYS[:2], transforms, batch_size=1, samples=4, repeats=1)
    models = data_speed.contestants(case)
    for contestant in models:
        samples = [contestant.stream[position] for position in range(4)]
        assert sorted({int(target["image_id"]) for _, target in samples}) == [3, 7]
        assert [len(target["boxes"]) for _, target in samples] == [1, 1, 1, 1]
    records = [{**record, "iscrowd": 1} for record in coco_document["annotations"]]
    Path("instances.json").write_text(json.dumps({**coco_document, "annotations": records}))
    with pytest.raises(ValueError, match="no image with objects"):
        data_speed.contestants(case)


def test_parts_make_up_the_whole(case: data_speed.Case) -> None:
    parts = data_parts.parts(case, data_speed.contestants(case)[-1])
    assert list(parts) == ["read and decode", "annotations", "transform", "to tensors"]
    assert all(seconds > 0 for seconds in parts.values())


def test_the_figures_are_complete(cli: Command, workplace: Path) -> None:
    done = cli(
        "benchmark", "data", "--data", "data.yaml", "--preset", "default", "--workers", "0,1", "--samples", 4,
        "--repeats", 3, "--set", "transforms.short=64", "--json", "figures.json",
    )  # fmt: skip
    assert done.status == 0, done.err
    figures = json.loads(Path("figures.json").read_text())
    assert (figures["samples"], figures["batch_size"], figures["threads"]) == (4, 2, 1)
    assert {"torch", "torchvision", "pillow", "opencv-python"} <= figures["versions"].keys()
    rows = figures["rows"]
    names = ["torchvision, Pillow", "torchvision, tensors", "vertebra"]
    cases = [(head, workers) for head in ("faster_rcnn", "mask_rcnn") for workers in (0, 1)]
    assert [(row["head"], row["workers"], row["name"]) for row in rows] == [
        (*case, name) for case in cases for name in names
    ]
    for start in range(0, len(rows), 3):
        three = rows[start : start + 3]
        fastest = max(row["median"] for row in three[:2])
        assert len({(row["objects"], row["megapixels"]) for row in three}) == 1
        assert three[0]["megapixels"] == pytest.approx(64 * 64 / 1e6)
        for row in three:
            assert row["median"] == pytest.approx(median(4 / seconds for seconds in row["seconds"]))
            assert len(row["seconds"]) == 3
            assert row["min"] <= row["median"] <= row["max"]
            assert row["ratio"] == pytest.approx(row["median"] / fastest)
    assert [part["head"] for part in figures["parts"]] == ["faster_rcnn", "mask_rcnn"]
    assert all(name in done.out for name in [*names, "read and decode", "ratio"])
    assert max(map(len, done.out.splitlines())) <= 80


def test_threads_are_given_back() -> None:
    import cv2

    before = cv2.getNumThreads(), torch.get_num_threads()
    with data_speed.threads(1):
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (1, 1)
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "flips"], "unknown preset that torchvision has too 'flips'. Known: default, lsj, multiscale."),
        (["--head", "deeplabv3"], "torchvision's pipeline is for boxes and masks"),
        (["--workers", "0,two"], "--workers 'two'; it takes numbers of processes"),
        (["--repeats", 0], "'repeats': 0}: each must be at least 1"),
        (["--data-root", "/nowhere"], "no data set at /nowhere"),
    ],
)
def test_bad_options_are_named(cli: Command, workplace: Path, arguments: list[object], message: str) -> None:
    done = cli("benchmark", "data", "--data", "data.yaml", *arguments)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_set_of_another_kind_is_refused(case: data_speed.Case) -> None:
    with pytest.raises(ValueError, match="has 0 files in COCO's format"):
        data_speed.contestants(data_speed.Case(read_data("imagefolder"), KEYS, case.transforms, 1, 1, 1))
