"""Batching: sizes, padding, and boxes there and back."""

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import vertebra
from vertebra.heads.images import make_batch

IMAGES = [torch.rand(3, 120, 200), torch.rand(3, 90, 60)]


@pytest.mark.parametrize("size", [(100, 150), (64, 64), (333, 400)])
def test_batch_equals_torchvision(size: tuple[int, int]) -> None:
    preprocessing = vertebra.Preprocessing()
    reference = GeneralizedRCNNTransform(*size, list(preprocessing.mean), list(preprocessing.std)).eval()
    expected, _ = reference([image.clone() for image in IMAGES])
    batch = make_batch(IMAGES, preprocessing, size)
    assert list(batch.sizes) == expected.image_sizes
    torch.testing.assert_close(batch.images, expected.tensors)


def test_without_a_size_images_are_only_normalised_and_padded() -> None:
    batch = make_batch(IMAGES, vertebra.Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3), None)
    assert batch.images.shape == (2, 3, 128, 224)
    assert torch.equal(batch.images[0, :, :120, :200], IMAGES[0])
    assert torch.equal(batch.images[1, :, :90, :60], IMAGES[1])
    assert not batch.images[1, :, 90:].any()
    assert not batch.images[1, :, :, 60:].any()


def test_boxes_go_there_and_back() -> None:
    batch = make_batch(IMAGES, vertebra.Preprocessing(), (60, 1000))
    assert batch.sizes == ((60, 100), (90, 60))
    boxes = torch.tensor([[20.0, 10.0, 200.0, 120.0]])
    torch.testing.assert_close(batch.to_batch(boxes, 0), torch.tensor([[10.0, 5.0, 100.0, 60.0]]))
    torch.testing.assert_close(batch.to_given(batch.to_batch(boxes, 0), 0), boxes)


def test_what_is_no_image_is_named() -> None:
    with pytest.raises(vertebra.InputError, match="holds no image"):
        make_batch([], vertebra.Preprocessing(), None)
    with pytest.raises(vertebra.InputError, match=r"image 1 has shape \(3, 0, 5\)"):
        make_batch([IMAGES[0], torch.rand(3, 0, 5)], vertebra.Preprocessing(), None)


def test_an_image_that_would_vanish() -> None:
    preprocessing = vertebra.Preprocessing()
    assert make_batch([torch.rand(3, 1, 150)], preprocessing, (100, 150)).sizes == ((1, 150),)
    with pytest.raises(vertebra.InputError, match="an image of 700x1 would be less than a pixel wide"):
        make_batch([torch.rand(3, 1, 700)], preprocessing, (100, 150))
