"""CIFAR's binary files, made up in its format: label bytes, then the red, green and blue plane of each image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vertebra
from vertebra.tools.data.cifar import read_cifar
from vertebra.tools.data.sets import Category
from vertebra.tools.data.stream import TrainingStream, evaluation_batches, training_batches
from vertebra.tools.data.transforms import Transform, Transforms

PER_FILE = 6


def records(seed: int, count: int, labels: list[tuple[int, ...]]) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return b"".join(bytes(label) + planes.tobytes() for label, planes in zip(labels, pixels, strict=True))


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """CIFAR-10 with six images in each file, whose labels count up from file to file."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for i, name in enumerate(names):
        labels = [((PER_FILE * i + j) % 10,) for j in range(PER_FILE)]
        (folder / name).write_bytes(records(i, PER_FILE, labels))
    (folder / "batches.meta.txt").write_text("".join(f"class{i}\n" for i in range(10)) + "\n")
    return tmp_path


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(records(0, 8, [(i, 99 - i) for i in range(8)]))
    (folder / "test.bin").write_bytes(records(1, 3, [(19, 50 + i) for i in range(3)]))
    (folder / "fine_label_names.txt").write_text("".join(f"class{i}\n" for i in range(100)))
    return tmp_path


def labels_of(data: Any) -> list[int]:
    return [int(image.targets(("label",))["label"]) for image in data.images]


def test_pixels_and_labels_of_cifar10(ten: Path) -> None:
    data = read_cifar(ten, "train", kind="cifar10", held_out=4)
    assert data.categories == tuple(Category(i, f"class{i}") for i in range(10))
    assert labels_of(data) == [i % 10 for i in range(26)]
    second = np.random.default_rng(1).integers(0, 256, (PER_FILE, 3, 32, 32), dtype=np.uint8)[2]
    image = data.images[PER_FILE + 2]
    assert image.path.name == "data_batch_2.bin"
    found = image.read()
    assert found.dtype == np.uint8
    for channel, plane in enumerate(second):
        assert np.array_equal(found[..., channel], plane)


def test_the_last_of_train_are_val(ten: Path) -> None:
    train, val = (read_cifar(ten, split, kind="cifar10", held_out=4) for split in ("train", "val"))
    assert [image.id for image in train.images + val.images] == list(range(1, 31))
    assert labels_of(val) == [6, 7, 8, 9]
    assert labels_of(read_cifar(ten, "test", kind="cifar10")) == [0, 1, 2, 3, 4, 5]
    assert len(read_cifar(ten, "train", kind="cifar10", held_out=0).images) == 30
    assert labels_of(read_cifar(ten, "val", kind="cifar10", held_out=0)) == [0, 1, 2, 3, 4, 5]
    for held_out in (30, 5000, -1):
        with pytest.raises(vertebra.InputError, match=rf"held_out={held_out}; of the 30 .* 0 to 29 can be"):
            read_cifar(ten, "train", kind="cifar10", held_out=held_out)


def test_the_fine_label_of_cifar100(hundred: Path) -> None:
    data = read_cifar(hundred, "train", kind="cifar100", held_out=2)
    assert labels_of(data) == [99, 98, 97, 96, 95, 94]
    assert labels_of(read_cifar(hundred, "test", kind="cifar100")) == [50, 51, 52]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    assert np.array_equal(data.images[3].read(), pixels[3].transpose(1, 2, 0))


def test_the_folder_itself_will_do(ten: Path) -> None:
    data = read_cifar(ten / "cifar-10-batches-bin", "test", kind="cifar10")
    assert data.source == ten / "cifar-10-batches-bin"
    assert len(data.images) == PER_FILE


def test_samples_do_not_depend_on_the_workers(ten: Path) -> None:
    data = read_cifar(ten, "train", kind="cifar10", held_out=4)
    stream = TrainingStream(data.images, Transform(Transforms("cifar", crop=(32, 32))), seed=1, target_keys=("label",))
    one, two = (list(training_batches(stream, 4, 0, 5, workers)) for workers in (0, 2))
    for left, right in zip(one, two, strict=True):
        for (pixels, target), (others, other) in zip(left, right, strict=True):
            assert pixels.equal(others)
            assert target["label"].equal(other["label"])


def test_samples_are_copies(ten: Path, recwarn: pytest.WarningsRecorder) -> None:
    """The file is mapped read-only; a tensor over it would end the process when written to."""
    data = read_cifar(ten, "test", kind="cifar10")
    ((pixels, target),) = next(evaluation_batches(data.images, 1, 0, ("label",)))
    before = data.images[0].read()
    pixels.zero_()
    assert np.array_equal(data.images[0].read(), before)
    assert target["label"].shape == ()
    assert target["label"].dtype == torch.int64
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_files_that_are_not_whole(ten: Path) -> None:
    folder = ten / "cifar-10-batches-bin"
    path = folder / "data_batch_3.bin"
    content = path.read_bytes()
    for cut in (content[:-1], b""):
        path.write_bytes(cut)
        with pytest.raises(vertebra.InputError, match=rf"batch_3\.bin has {len(cut)} bytes, not a multiple of 3073"):
            read_cifar(ten, "train", kind="cifar10", held_out=4)
    path.write_bytes(b"\x0a" + content[1:])
    with pytest.raises(vertebra.InputError, match=r"record 0 of .*data_batch_3\.bin has class 10, there are 10"):
        labels_of(read_cifar(ten, "train", kind="cifar10", held_out=4))
    (folder / "batches.meta.txt").write_text("one\ntwo\n")
    with pytest.raises(vertebra.InputError, match="names 2 classes; cifar10 has 10"):
        read_cifar(ten, "test", kind="cifar10")


def test_what_is_missing(ten: Path, tmp_path: Path) -> None:
    (ten / "cifar-10-batches-bin" / "data_batch_2.bin").unlink()
    with pytest.raises(vertebra.InputError, match=r"lacks data_batch_2\.bin; unpack the binary version"):
        read_cifar(ten, "train", kind="cifar10")
    (tmp_path / "other" / "cifar-100-python").mkdir(parents=True)
    with pytest.raises(vertebra.InputError, match=r"cifar-100-python is the Python version.*unpack the binary version"):
        read_cifar(tmp_path / "other", "train", kind="cifar100")
    with pytest.raises(vertebra.InputError, match=r"lacks test_batch\.bin, batches\.meta\.txt"):
        read_cifar(tmp_path / "other", "test", kind="cifar10")
    with pytest.raises(vertebra.InputError, match="unknown CIFAR set 'cifar20'"):
        read_cifar(ten, "train", kind="cifar20")
    with pytest.raises(vertebra.InputError, match=r"unknown split of CIFAR 'valid'\. Did you mean 'val'"):
        read_cifar(ten, "valid", kind="cifar10")
