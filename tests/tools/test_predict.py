"""The command `predict`: what it finds by, what it leaves, and what people get wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vertebra
from vertebra.tools import findings, predict_images
from vertebra.tools.data.masks import decode

Command = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("workplace")


def results(folder: str) -> list[dict[str, Any]]:
    return json.loads(Path(folder, "predictions.json").read_text())  # type: ignore[no-any-return]


def names(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def image_list(shapes: Path, workplace: Path) -> Path:
    """The validation images as an image list with ids of its own, beside nothing of them."""
    document = json.loads((shapes / "annotations" / "val.json").read_text())
    for i, record in enumerate(document["images"]):
        record["id"] = 1000 - 7 * i
    path = workplace / "info.json"
    path.write_text(json.dumps({"images": document["images"], "categories": document["categories"]}))
    return path


def test_folders_patterns_and_what_is_left(cli: Command, mask_run: Path, shapes: Path) -> None:
    done = cli("predict", mask_run, shapes / "val", shapes / "tr*" / "00000[01].png", "--score", 0, "--output", "found")
    assert done.status == 0, done.err
    pictures = {f"{name}.jpg" for name in ("000000", "000001", "000002", "000003", "000000-2", "000001-2")}
    assert names("found") == {*pictures, "predictions.json"}
    found = results("found")
    assert done.out == f"{len(found)} detections in 6 images: predictions.json and 6 pictures in found\n"
    files = [shapes / part / f"{n:06d}.png" for part, count in (("val", 4), ("train", 2)) for n in range(count)]
    assert {(each["image_id"], each["file_name"]) for each in found} == {(i + 1, str(files[i])) for i in range(6)}
    alone = vertebra.Predictor(mask_run)(shapes / "train" / "000000.png")
    of_it = [each for each in found if each["image_id"] == 5]
    assert [each["score"] for each in of_it] == pytest.approx(alone["scores"].tolist(), abs=1e-5)
    assert [each["category_id"] for each in of_it] == [(1, 3, 4, 7)[label - 1] for label in alone["labels"]]
    assert [each["segmentation"]["size"] for each in of_it] == [[64, 64]] * len(of_it)


def test_score_and_top(cli: Command, mask_run: Path, shapes: Path) -> None:
    images = [mask_run, shapes / "val", "--no-pictures"]
    assert cli("predict", *images, "--score", 0, "--output", "all").status == 0
    assert names("all") == {"predictions.json"}
    everything = results("all")
    best = [sorted((e["score"] for e in everything if e["image_id"] == i), reverse=True) for i in (1, 2, 3, 4)]
    middle = sorted(each["score"] for each in everything)[len(everything) // 2]
    assert cli("predict", *images, "--score", middle, "--top", 3, "--output", "some").status == 0
    expected = [score for scores in best for score in scores[:3] if score >= middle]
    assert [each["score"] for each in results("some")] == pytest.approx(expected, abs=1e-6)
    assert cli("predict", *images, "--output", "default").status == 0
    assert results("default") == [each for each in everything if each["score"] >= 0.5]


def test_batches_find_the_same(cli: Command, mask_run: Path, shapes: Path) -> None:
    Path("mixed").mkdir()
    for i, path in enumerate(sorted((shapes / "train").iterdir())):
        with Image.open(path) as image:
            image.crop((0, 0, 64, (64, 48)[i % 3 == 1])).save(f"mixed/{path.name}")
    for size in (1, 3):
        done = cli("predict", mask_run, "mixed", "--score", 0, "--no-pictures", "--batch-size", size, "--output", size)
        assert done.status == 0, done.err
    one, three = results("1"), results("3")
    assert [(e["image_id"], e["file_name"]) for e in one] == [(e["image_id"], e["file_name"]) for e in three]
    assert np.allclose([e["bbox"] for e in one], [e["bbox"] for e in three], atol=1e-3)


def test_an_image_list_gives_results_to_submit(cli: Command, mask_run: Path, shapes: Path, image_list: Path) -> None:
    done = cli("predict", mask_run, image_list, "--images", shapes / "val", "--top", 1, "--output", "found")
    assert done.status == 0, done.err
    assert len(names("found")) == 5
    found = results("found")
    assert {each["image_id"] for each in found} == {1000, 993, 986, 979}
    assert set(found[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    predictor = vertebra.Predictor(mask_run)
    everything = [score for i in range(4) for score in predictor(shapes / "val" / f"{i:06d}.png")["scores"].tolist()]
    assert [each["score"] for each in found] == pytest.approx(everything, abs=1e-5)

    from pycocotools.coco import COCO

    COCO(str(image_list)).loadRes(found)


def test_images_of_a_list_are_not_turned(cli: Command, mask_run: Path, shapes: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    Path("turned").mkdir()
    with Image.open(shapes / "val" / "000000.png") as image:
        image.crop((0, 0, 64, 48)).save("turned/a.png", exif=exif)
    Path("turned/info.json").write_text(json.dumps({"images": [{"id": 5, "file_name": "a.png"}]}))
    for given, size in (("turned/info.json", [48, 64]), ("turned", [64, 48])):
        done = cli("predict", mask_run, given, "--no-pictures", "--output", "found", *given_score(given))
        assert done.status == 0, done.err
        assert results("found")[0]["segmentation"]["size"] == size


def given_score(given: str) -> list[object]:
    return [] if given.endswith(".json") else ["--score", 0]


def test_maps_of_objects(cli: Command, mask_run: Path, shapes: Path) -> None:
    done = cli("predict", mask_run, shapes / "val", "--masks", "--no-pictures", "--score", 0, "--output", "found")
    assert done.status == 0, done.err
    maps = {f"masks/00000{i}.{end}" for i in range(4) for end in ("png", "json")}
    assert names("found") == {"predictions.json", *maps}
    first = [each for each in results("found") if each["image_id"] == 1]
    numbers = np.array(Image.open("found/masks/000000.png"))
    objects = json.loads(Path("found/masks/000000.json").read_text())
    assert [(o["category_id"], o["bbox"], o["score"]) for o in objects] == [
        (e["category_id"], e["bbox"], e["score"]) for e in first
    ]
    masks = decode([each["segmentation"] for each in first], 64, 64)
    expected = np.where(masks.any(axis=0), masks.argmax(axis=0) + 1, 0)  # the first that has the pixel
    assert np.array_equal(numbers, expected)


def test_bad_images_are_named_and_left_out(cli: Command, mask_run: Path, shapes: Path) -> None:
    Path("text.jpg").write_text("hello")
    Image.new("RGB", (700, 1)).save("thin.png")
    good = shapes / "val" / "000001.png"
    done = cli("predict", mask_run, "text.jpg", good, "thin.png", "--output", "found")
    assert done.status == 2
    first, second, last = done.err.splitlines()
    assert first.startswith("left out: text.jpg is not an image")
    assert second.startswith("left out: image thin.png: an image of 700x1 would be less than a pixel wide")
    assert last == "error: 2 of 3 images could not be predicted on and were left out"
    assert names("found") == {"000001.jpg", "predictions.json"}
    done = cli("predict", mask_run, "text.jpg", "--output", "none")
    assert done.status == 2
    assert done.out == ""
    assert not Path("none").exists()


def test_missing_images_of_a_list(
    cli: Command, mask_run: Path, shapes: Path, image_list: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = json.loads(image_list.read_text())
    document["images"][2]["file_name"] = "absent.png"
    document["images"][1]["width"] = 65
    document["categories"][0]["name"] = "ring"
    image_list.write_text(json.dumps(document))
    done = cli("predict", mask_run, image_list, "--images", shapes / "val", "--output", "found", "--no-pictures")
    assert done.status == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"1 of the 4 images of {image_list} are not in {shapes / 'val'} (first: 'absent.png')",
        f"{image_list} has other categories than the model's 4 (circle, ring): results have the model's ids",
    ]
    lines = done.err.splitlines()
    assert "its list says 65x64; were the images resized?" in lines[0]
    assert "absent.png cannot be read" in lines[1]
    assert lines[2:] == ["error: 2 of 4 images could not be predicted on and were left out"]
    assert {each["image_id"] for each in results("found")} == {1000, 979}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no image or folder at nowhere"),
        (["*.gif"], "no image matches *.gif; files ending in .jpg"),
        (["empty"], "no images in empty; files ending in .jpg"),
        (["absent.json"], "no image list at absent.json"),
        (["results.json"], "results.json lists no images; a JSON file to predict on is one of COCO's"),
        (["info.json", "VAL"], "an image list goes alone"),
        (["info.json"], "none of the 4 images of info.json is in . (first: '000000.png'); say where they lie"),
        (["VAL", "--images", "VAL"], "is where the images of an image list (LIST.json) lie; none was given"),
        (
            ["info.json", "--images", "VAL", "--no-pictures", "--score", 0.3],
            "--score with an image list is for",
        ),
        (["VAL", "--output", "VAL"], "has images to predict on, which pictures could be written over"),
        (["VAL", "--output", "info.json"], "It is a file; choose another --output"),
    ],
)
def test_what_is_refused(
    cli: Command, mask_run: Path, shapes: Path, image_list: Path, arguments: list[object], message: str
) -> None:
    Path("empty").mkdir()
    Path("results.json").write_text("[]")
    before = {path: path.stat().st_mtime_ns for path in (shapes / "val").iterdir()}
    done = cli("predict", mask_run, *(shapes / "val" if given == "VAL" else given for given in arguments))
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert message in done.err
    assert not Path("predictions").exists()
    assert {path: path.stat().st_mtime_ns for path in (shapes / "val").iterdir()} == before


def test_an_error_on_the_way_leaves_the_older_results(
    cli: Command, mask_run: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("predict", mask_run, shapes / "val", "--output", "found", "--score", 0).status == 0
    before = results("found")
    pictures = iter(range(2))
    drawn = findings.detections_picture

    def full_disk(*arguments: Any) -> Any:
        if next(pictures, None) is None:
            raise OSError(28, "No space left on device", "found/000002.jpg")
        return drawn(*arguments)

    monkeypatch.setattr(findings, "detections_picture", full_disk)
    done = cli("predict", mask_run, shapes / "val", "--output", "found")
    assert done.status == 2
    assert done.err.startswith("error: found/000002.jpg: No space left on device. ")
    assert results("found") == before
    assert not [name for name in names("found") if name.startswith(".")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_good_order(
    cli: Command, mask_run: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The picture that is being drawn is drawn to its end, and nothing is left of predictions.json."""
    drawn = findings.detections_picture

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return drawn(*arguments)

    monkeypatch.setattr(findings, "detections_picture", interrupted)
    done = cli("predict", mask_run, shapes / "val", "--output", "found")
    assert done.status == 128 + number
    assert done.err == ("stopped after 1 of 4 images; the file for all of them together is not written to found\n")
    assert names("found") == {"000000.jpg"}
    assert Image.open("found/000000.jpg").size == (360, 360)


def test_results_do_not_grow_in_memory(mask_run: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written of an image is let go of before the next but a few comes."""
    from rich.console import Console

    from vertebra.tools.data.image_list import numbered

    class Counted(dict[str, Any]):
        alive = 0

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            Counted.alive += 1

        def __del__(self) -> None:
            Counted.alive -= 1

    predictor = vertebra.Predictor(mask_run)
    batch = predictor._of_one_size
    monkeypatch.setattr(predictor, "_of_one_size", lambda images: [Counted(found) for found in batch(images)])
    most = 0

    class Watching(findings.Detections):
        def add(self, *arguments: Any) -> None:
            nonlocal most
            super().add(*arguments)
            most = max(most, Counted.alive)

    wanted = findings.Wanted(score=0, pictures=False)
    watching = Watching(Path("found"), predictor.categories, wanted)
    prediction = predict_images.Prediction(predictor, watching, Path("found"), 2, Console(quiet=True))
    prediction.run(numbered([shapes / "train" / f"{i % 8:06d}.png" for i in range(24)]))
    assert len({each["image_id"] for each in results("found")}) == 24
    assert most <= 4


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(mask_run: Path, shapes: Path) -> None:
    files = [str(shapes / "train" / f"{i % 8:06d}.png") for i in range(400)]
    command = [sys.executable, "-m", "vertebra.tools.predict", str(mask_run), *files, "--output", "found"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not Path("found").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("stopped after ")
    assert "Traceback" not in said
    assert not Path("found/predictions.json").exists()
    for path in Path("found").glob("*.jpg"):
        assert path.read_bytes().endswith(b"\xff\xd9")
