"""The stream of samples: a pure function of (seed, position), whoever asks."""

import copy
import multiprocessing
import os
import pickle
import signal
from hashlib import sha256
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch

import vertebra
from vertebra.heads.boxed_masks import BoxedMasks
from vertebra.tools.data.coco import read_coco, require_masks
from vertebra.tools.data.sampling import Sampling, make_order
from vertebra.tools.data.stream import TrainingStream, evaluation_batches, training_batches
from vertebra.tools.data.transforms import Transform, Transforms


@pytest.fixture
def masked(shapes: Path) -> TrainingStream:
    """The stream of a model that learns masks, on the same images with the same seed."""
    data = require_masks(read_coco(shapes / "annotations" / "train.json", shapes / "train"))
    keys = ("boxes", "labels", "masks")
    return TrainingStream(data.images, Transform(Transforms("flips", 96, 96)), seed=5, target_keys=keys)


@pytest.fixture
def stream(shapes: Path) -> TrainingStream:
    data = read_coco(shapes / "annotations" / "train.json", shapes / "train")
    return TrainingStream(data.images, Transform(Transforms("flips", 64, 64)), seed=5)


def same(one: list, other: list) -> bool:
    return all(
        torch.equal(a, b) and all(torch.equal(dense(s[key]), dense(t[key])) for key in s)
        for (a, s), (b, t) in zip(one, other, strict=True)
    )


def dense(value: torch.Tensor | BoxedMasks) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else value.dense()


def test_a_sample_does_not_depend_on_what_was_asked_before(stream: TrainingStream) -> None:
    forwards = [stream[i] for i in range(20)]
    backwards = [stream[i] for i in reversed(range(20))]
    assert same(forwards, backwards[::-1])


def test_masks_when_asked(shapes: Path, stream: TrainingStream, masked: TrainingStream) -> None:
    """The generated shapes' boxes are tight, so masks that went with them still touch all four sides."""
    assert set(stream[0][1]) == {"boxes", "labels", "dropped", "image_id", "seed"}
    for i in range(10):
        pixels, target = masked[i]
        assert target["masks"].dtype == torch.uint8
        assert target["masks"].shape == (len(target["boxes"]), *pixels.shape[1:])
        assert len(target["masks"]) == len(target["labels"]) > 0
        for mask, box in zip(target["masks"].dense(), target["boxes"], strict=True):
            ys, xs = mask.nonzero().T
            found = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            torch.testing.assert_close(found.float(), box, atol=1, rtol=0)


def test_masks_change_nothing_else(shapes: Path, masked: TrainingStream) -> None:
    data = read_coco(shapes / "annotations" / "train.json", shapes / "train")
    plain = TrainingStream(data.images, Transform(Transforms("flips", 96, 96)), seed=5)
    asked = [(pixels, {key: target[key] for key in plain[0][1]}) for pixels, target in (masked[i] for i in range(20))]
    assert same(asked, [plain[i] for i in range(20)])


def test_a_sample_with_masks_does_not_depend_on_what_was_asked_before(masked: TrainingStream) -> None:
    assert same([masked[i] for i in range(12)], [masked[i] for i in reversed(range(12))][::-1])
    assert same([batch[0] for batch in training_batches(masked, 1, 2, 6, 1)], [masked[i] for i in range(2, 6)])


def test_a_target_that_the_data_set_lacks_is_named(stream: TrainingStream) -> None:
    other = TrainingStream(stream.images, stream.transform, 0, target_keys=("boxes", "semantic"))
    message = r"learns from 'semantic', which this data set does not have: it has boxes, labels, masks; choose"
    with pytest.raises(vertebra.InputError, match=message):
        next(training_batches(other, 2, 0, 1, 0))
    with pytest.raises(vertebra.InputError, match=message):
        next(evaluation_batches(stream.images, 2, 0, ("semantic",)))


def test_evaluation_gives_targets_as_they_are_stored(shapes: Path) -> None:
    data = read_coco(shapes / "annotations" / "train.json", shapes / "train")
    for batch in evaluation_batches(data.images, 3, 0, ("boxes",)):
        for pixels, target in batch:
            (image,) = [image for image in data.images if image.id == int(target["image_id"])]
            assert set(target) == {"boxes", "image_id"}
            assert target["boxes"].tolist() == image.boxes.tolist()
            assert pixels.shape == (3, image.height, image.width)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_from_any_step_and_any_number_of_workers(stream: TrainingStream, workers: int) -> None:
    expected = [[stream[step * 3 + i] for i in range(3)] for step in range(2, 6)]
    found = list(training_batches(stream, 3, 2, 6, workers))
    assert len(found) == 4
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_each_step(stream: TrainingStream, workers: int) -> None:
    """Step 3 of 4 images is made of positions 12 to 15, of which the second of two processes has the last two."""
    shares = [list(training_batches(stream, 4, 3, 6, workers, (rank, 2))) for rank in range(2)]
    whole = list(training_batches(stream, 4, 3, 6, 0))
    assert same([sample for batch in shares[1] for sample in batch], [stream[i] for i in (14, 15, 18, 19, 22, 23)])
    assert all(same([*one, *two], both) for one, two, both in zip(*shares, whole, strict=True))


def test_a_batch_that_processes_cannot_share(stream: TrainingStream) -> None:
    with pytest.raises(vertebra.InputError, match=r"optim\.batch_size=4 .* among 3 processes; choose a multiple of 3"):
        training_batches(stream, 4, 0, 1, 0, (0, 3))


def test_each_sample_has_a_seed_of_its_own(stream: TrainingStream) -> None:
    """It belongs to the position, not to the image, and follows the seed of the run."""
    seeds = [int(stream[i][1]["seed"]) for i in range(3 * len(stream.images))]
    assert len(set(seeds)) == len(seeds)
    assert stream[0][1]["seed"].dtype == torch.int64
    other = TrainingStream(stream.images, stream.transform, seed=6)
    assert int(other[0][1]["seed"]) not in seeds


def test_evaluation_takes_every_image_once_in_order(shapes: Path) -> None:
    data = read_coco(shapes / "annotations" / "train.json", shapes / "train")
    batches = list(evaluation_batches(data.images, 3, 0))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert [int(target["image_id"]) for batch in batches for _, target in batch] == [image.id for image in data.images]


def test_a_worker_that_is_killed_is_told_with_its_image(
    stream: TrainingStream, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    position, loaded = 7, TrainingStream.__getitem__

    def fatal(self: TrainingStream, asked: int) -> object:
        if asked == position:
            os.kill(os.getpid(), signal.SIGKILL)
        return loaded(self, asked)

    monkeypatch.setattr(TrainingStream, "__getitem__", fatal)
    image = stream.image(position)
    told = rf"by SIGKILL while it loaded image {image.id}, {image.path} \(position 7 of the stream\).*fewer than 2"
    with pytest.raises(vertebra.InputError, match=told):
        list(training_batches(stream, 2, 0, 10, 2))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_without_a_traceback_of_the_worker(
    shapes: Path, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "train").mkdir()
    for path in (shapes / "train").iterdir():
        (tmp_path / "train" / path.name).write_bytes(path.read_bytes()[:200])
    data = read_coco(shapes / "annotations" / "train.json", tmp_path / "train")
    stream = TrainingStream(data.images, Transform(Transforms("none", 64, 64)), seed=0)
    with pytest.raises(vertebra.InputError, match=r"\d+\.png is cut short") as caught:
        list(training_batches(stream, 2, 0, 1, workers))
    assert "Traceback" not in str(caught.value)


def test_a_target_goes_between_processes_as_bytes(masked: TrainingStream) -> None:
    """Also copied, as a DataLoader does that pins memory."""
    _, target = masked[0]
    sent = ForkingPickler.dumps(target)
    assert len(sent) > sum(dense(value).element_size() for value in target.values()) + target["masks"].pixels.numel()
    for found in (pickle.loads(sent), copy.copy(target)):
        assert type(found) is type(target)
        assert {key: dense(value).dtype for key, value in found.items()} == {
            key: dense(value).dtype for key, value in target.items()
        }
        assert all(torch.equal(dense(found[key]), dense(target[key])) for key in target)
        assert found["dropped"].shape == found["image_id"].shape == ()


def digests(images: Path, annotations: Path, positions: range, workers: int) -> list[str]:
    """Hash the samples at these positions, a multiple of 20, as a run of batches of 20 loads them."""
    data = require_masks(read_coco(annotations, images))
    transform = Transform(Transforms("strong", crop=(128, 128)))
    order = make_order(data, Sampling("repeat_factor", threshold=0.1, group_shapes=True), seed=3, batch_size=20)
    stream = TrainingStream(data.images, transform, seed=3, target_keys=("boxes", "labels", "masks"), order=order)
    found = []
    for batch in training_batches(stream, 20, positions.start // 20, positions.stop // 20, workers):
        for pixels, target in batch:
            others = (target[key] for key in ("image_id", "boxes", "labels", "dropped"))
            parts = b"".join(part.numpy().tobytes() for part in (pixels, *others, target["masks"].dense()))
            found.append(sha256(parts).hexdigest())
    return found


@pytest.mark.slow
def test_the_first_thousand_samples(real_data: Path) -> None:
    """The same from 0, 1, 2 and 4 workers, and from two processes that load one half each."""
    root = real_data / "coco_mini"
    files = root / "train2017", root / "annotations" / "instances_train2017.json"
    expected = digests(*files, range(1000), 0)
    assert len(set(expected)) == 1000
    for workers in (1, 2, 4):
        assert digests(*files, range(1000), workers) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        halves = pool.starmap(digests, [(*files, range(500), 0), (*files, range(500, 1000), 0)])
    assert [*halves[0], *halves[1]] == expected
