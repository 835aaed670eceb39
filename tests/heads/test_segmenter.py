"""Semantic segmentation: sizes, padding, test-time augmentation, single images, and strict about input."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import vertebra
from vertebra.heads.segmenter import Segmenter

_RANDOM = torch.Generator().manual_seed(0)
SIZES = ((48, 64), (50, 40))
IMAGES = [torch.rand(3, *size, generator=_RANDOM) for size in SIZES]
TARGETS = [{"semantic": torch.randint(0, 3, size, generator=_RANDOM)} for size in SIZES]


def small_model(head: str = "deeplabv3", **changes: Any) -> Segmenter:
    torch.manual_seed(0)
    small: dict[str, Any] = {"train_size": None, "test_size": None, "aspp_channels": 8}
    row = replace(vertebra.head_row(head), **{**small, **changes})
    backbone = replace(vertebra.row("resnet18"), depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    return vertebra.create_model(row, backbone=backbone, num_classes=3)


class Colours(nn.Module):
    """A classifier whose logits at stride 8 are the mean colours of the image itself, whatever the backbone says."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.seen: Tensor
        model.backbone.register_forward_pre_hook(self._see)

    def _see(self, module: nn.Module, given: tuple[Tensor]) -> None:
        self.seen = given[0]

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return F.avg_pool2d(self.seen, 8)


HEADS = ["deeplabv3", "deeplabv3plus"]


# --- sizes and padding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, (24, 100), (96, 300)])
@pytest.mark.parametrize("head", HEADS)
def test_outputs_have_the_size_of_the_image(head: str, size: tuple[int, int] | None) -> None:
    model = small_model(head, test_size=size).eval()
    with torch.no_grad():
        found, logits = model(IMAGES), model.logits(IMAGES)
    for one, scores, wanted in zip(found, logits, SIZES, strict=True):
        assert set(one) == {"semantic"}
        assert (one["semantic"].dtype, tuple(one["semantic"].shape)) == (torch.uint8, wanted)
        assert (scores.dtype, tuple(scores.shape)) == (torch.float32, (3, *wanted))
        assert torch.equal(one["semantic"].long(), scores.argmax(dim=0))


def test_logits_stand_where_the_image_does() -> None:
    """A classifier of the image's own colours finds them where they are; padding does not show."""
    model = small_model().eval()
    model.backbone.preprocessing = vertebra.Preprocessing((0.0,) * 3, (1.0,) * 3)
    model.classifier = Colours(model)
    image = torch.zeros(3, 40, 48)
    image[0, :16, :24], image[1, :16, 24:], image[2, 16:] = 1, 1, 1
    with torch.no_grad():
        found = [one["semantic"] for one in model([image, torch.rand(3, 70, 30)])]
    same = found[0].long() == image.argmax(dim=0)
    same[12:20, 20:28] = True  # where three colours meet, a mean of all is mostly the lower one
    assert bool(same.all())
    assert tuple(found[1].shape) == (70, 30)


def test_a_batch_gives_what_its_images_give() -> None:
    """Of equal sizes, as padding is seen at the border."""
    model = small_model().double().eval()
    images = [IMAGES[0].double(), IMAGES[0].double().flip(0), torch.zeros(3, 48, 64, dtype=torch.float64)]
    with torch.no_grad():
        together, alone = model.logits(images), [model.logits([image])[0] for image in images]
    torch.testing.assert_close(together, alone)


def test_padding_is_not_learnt_from() -> None:
    """The loss is the cross-entropy of the logits over the pixels of both images."""
    model = small_model(aux_weight=None).double().eval()
    images = [image.double() for image in IMAGES]
    labels = [one["semantic"].clone() for one in TARGETS]
    labels[0][:10] = 255
    with torch.no_grad():
        flat = torch.cat([one.flatten(1) for one in model.logits(images)], dim=1)
        wanted = F.cross_entropy(flat.T, torch.cat([one.flatten() for one in labels]), ignore_index=255)
        for dtype in (torch.int64, torch.uint8):
            losses = model.losses(images, [{"semantic": one.to(dtype)} for one in labels])
            torch.testing.assert_close(losses, {"cross_entropy": wanted})


def test_labels_are_resized_with_the_image() -> None:
    """Twice the image with twice the labels is the same image, once it is resized."""
    model = small_model(train_size=(32, 100)).train()
    image = torch.rand(3, 16, 20).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels = torch.randint(0, 3, (32, 40)).repeat_interleave(2, 0).repeat_interleave(2, 1)
    freeze_statistics(model)
    with torch.no_grad():
        losses = model([image], [{"semantic": labels}])
        small = F.interpolate(image[None], size=(32, 40), mode="bilinear")[0]
        expected = model([small], [{"semantic": labels[::2, ::2]}])
    torch.testing.assert_close(losses, expected)


def freeze_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
            module.eval()


def test_bytes_and_fractions_give_the_same() -> None:
    model = small_model().eval()
    images = [(image * 255).to(torch.uint8) for image in IMAGES]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(images), model.logits([image / 255 for image in images]))


# --- training --------------------------------------------------------------------------------------------------------


def test_losses_have_names() -> None:
    model = small_model(losses=("cross_entropy", "ohem", "dice"), class_weights=(1.0, 2.0, 3.0)).train()
    names = ["cross_entropy", "ohem", "dice"]
    assert list(model(IMAGES, TARGETS)) == [*names, *(f"aux_{name}" for name in names)]


def test_losses_in_eval_mode_leave_the_model_as_it_was() -> None:
    model = small_model().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert set(model.losses(IMAGES, TARGETS)) == {"cross_entropy", "aux_cross_entropy"}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert isinstance(model(IMAGES), list)


@pytest.mark.parametrize("head", HEADS)
def test_one_image_trains(head: str, caplog: pytest.LogCaptureFixture) -> None:
    """Image pooling has one value per channel: its norm's statistics stay, are used, and the log says so once."""
    model = small_model(head).train()
    aspp = model.classifier[0] if head == "deeplabv3" else model.classifier[0].aspp
    norm = aspp.convs[-1][2]
    nn.init.normal_(norm.running_mean, generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    pooled: list[Tensor] = []
    norm.register_forward_hook(lambda *_: pooled.append(torch.ones(())))
    with caplog.at_level(logging.WARNING, "vertebra"):
        for _ in range(2):
            losses = model(IMAGES[:1], TARGETS[:1])
            torch.stack(list(losses.values())).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    assert not pooled
    assert norm.weight.grad is not None
    assert len([record for record in caplog.records if "one image" in record.message]) == 1
    model(IMAGES, TARGETS)
    assert pooled
    assert not torch.equal(norm.running_mean, before["running_mean"])
    assert int(norm.num_batches_tracked) == 1


def test_groups_need_no_batch(caplog: pytest.LogCaptureFixture) -> None:
    model = small_model(head_norm="group", aspp_channels=64).train()
    model(IMAGES[:1], TARGETS[:1])
    assert not caplog.records


def test_nothing_to_learn_from() -> None:
    """Labels that are all to be ignored: losses are 0, and no weight gets a gradient that is not."""
    model = small_model(losses=("cross_entropy", "dice", "ohem")).train()
    losses = model(IMAGES, [{"semantic": torch.full(size, 255, dtype=torch.uint8)} for size in SIZES])
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.item() == 0 for value in losses.values())
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert not weight.grad.any(), name


@pytest.mark.parametrize("head", HEADS)
def test_it_learns_one_batch(head: str) -> None:
    model = small_model(head, losses=("cross_entropy", "dice"), dropout=0.0).train()
    labels = [(image.mean(dim=0) > 0.5).long() + (image[0] > 0.9) for image in map(blurred, IMAGES)]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    history = []
    for _ in range(25):
        loss = torch.stack(list(model(list(map(blurred, IMAGES)), [{"semantic": x} for x in labels]).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert sum(history[-3:]) < 0.6 * sum(history[:3])


def blurred(image: Tensor) -> Tensor:
    """The image with areas rather than noise."""
    small = F.adaptive_avg_pool2d(image[:, :32, :32], 4)
    small = (small - small.min()) / (small.max() - small.min())
    return F.interpolate(small[None], size=image.shape[-2:])[0]


def test_autocast_keeps_losses_exact() -> None:
    model = small_model().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        losses, logits = model.losses(IMAGES, TARGETS), model.logits(IMAGES)
    assert {value.dtype for value in (*losses.values(), *logits)} == {torch.float32}


@pytest.mark.parametrize("head", HEADS)
def test_losses_do_not_wait_for_the_device(head: str) -> None:
    """Tensors without values refuse whatever would read one back to the host."""
    with FakeTensorMode():
        with torch.device("cuda"):
            losses = ("cross_entropy", "ohem", "dice")
            model = small_model(head, losses=losses, class_weights=(1.0, 2.0, 3.0)).train()
            images = [torch.rand(3, *size) for size in SIZES]
            targets = [{"semantic": torch.zeros(size, dtype=torch.uint8)} for size in SIZES]
        found = model(images, targets)
    assert {value.device.type for value in found.values()} == {"cuda"}


@pytest.mark.parametrize(("head", "parts", "images"), [("deeplabv3", 3, 1), ("deeplabv3plus", 2, 2)])
def test_it_compiles_whole_and_once(head: str, parts: int, images: int) -> None:
    """Without a graph break, and for images of many sizes only once, as `pad_to` gives them one shape."""
    model = small_model(head, pad_to=((64, 96),)).train()
    compiled: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(1)
        return graph

    model.compile(backend=count, fullgraph=True)
    keys = list(model.state_dict())
    torch._dynamo.reset()
    for size in ((60, 96), (50, 40), (33, 71)):
        labels = torch.zeros(size, dtype=torch.uint8)
        model([torch.rand(3, *size)] * images, [{"semantic": labels}] * images)
    assert len(compiled) == parts
    assert list(model.state_dict()) == keys


# --- test-time augmentation ------------------------------------------------------------------------------------------


def by_hand(model: Segmenter, image: Tensor, views: list[tuple[float, bool]]) -> Tensor:
    """The mean of the probabilities that plain models give for scaled and mirrored images."""
    total = torch.zeros(3, *image.shape[-2:])
    for scale, mirrored in views:
        given = image.flip(-1) if mirrored else image
        size = tuple(round(side * scale) for side in image.shape[-2:])
        # Normalised before it is resized, as the model does; mean and standard deviation are the same for all pixels.
        given = F.interpolate(given[None], size=size, mode="bilinear")[0]
        (logits,) = model.logits([given])
        probabilities = F.interpolate(logits[None], size=image.shape[-2:], mode="bilinear")[0].softmax(dim=0)
        total += probabilities.flip(-1) if mirrored else probabilities
    return total / len(views)


@pytest.mark.parametrize(
    ("changes", "views"),
    [
        ({"test_flip": True}, [(1.0, False), (1.0, True)]),
        ({"test_scales": (0.5, 1.0, 1.5)}, [(0.5, False), (1.0, False), (1.5, False)]),
        ({"test_scales": (0.5, 2.0), "test_flip": True}, [(0.5, False), (0.5, True), (2.0, False), (2.0, True)]),
    ],
)
def test_augmentation_by_hand(changes: dict[str, Any], views: list[tuple[float, bool]]) -> None:
    plain, augmented = small_model().eval(), small_model(**changes).eval()
    with torch.no_grad():
        found = augmented(IMAGES)
        for image, one in zip(IMAGES, found, strict=True):
            wanted = by_hand(plain, image, views)
            first, second = wanted.topk(2, dim=0).values
            clear = first - second > 1e-5
            assert bool(clear.float().mean() > 0.9)
            assert torch.equal(one["semantic"][clear].long(), wanted.argmax(dim=0)[clear])


def test_mirrored_images_have_mirrored_classes() -> None:
    """With `test_flip`; without it a network sees left and right differently. Of widths without padding."""
    image = torch.rand(3, 64, 96)
    found = {}
    for flip in (False, True):
        model = small_model(test_flip=flip).eval()
        nn.init.normal_(model.classifier[-1].weight, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            one, other = (model([given])[0]["semantic"] for given in (image, image.flip(-1)))
        found[flip] = (one == other.flip(-1)).float().mean().item()
    assert found[True] > 0.999
    assert found[False] < found[True]


def test_scales_are_of_the_test_size() -> None:
    model = small_model(test_size=(32, 100), test_scales=(1.0, 2.0)).eval()
    seen: list[tuple[int, ...]] = []
    model.backbone.register_forward_hook(lambda module, given, out: seen.append(tuple(given[0].shape)))
    with torch.no_grad():
        (found,) = model([torch.rand(3, 64, 64)])
    assert seen == [(1, 3, 32, 32), (1, 3, 64, 64)]
    assert tuple(found["semantic"].shape) == (64, 64)


# --- errors ----------------------------------------------------------------------------------------------------------


def with_labels(labels: Tensor) -> list[dict[str, Tensor]]:
    return [TARGETS[0], {"semantic": labels}]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (TARGETS[:1], "2 images came with 1 targets"),
        ([TARGETS[0], {"labels": torch.zeros(1)}], r"targets\[1\] has no semantic"),
        (with_labels(torch.zeros(40, 50).long()), r"\['semantic'\] is torch.int64 of shape \(40, 50\); .*\(50, 40\)"),
        (with_labels(torch.zeros(1, 50, 40).long()), r"of shape \(1, 50, 40\)"),
        (with_labels(torch.zeros(50, 40)), r"\['semantic'\] is torch.float32 .*; uint8 or int64 \(50, 40\)"),
        (with_labels(torch.full((50, 40), 3)), r"\[1\]\['semantic'\] has the label 3; 0 to 2 are allowed, and 255"),
        (with_labels(torch.full((50, 40), -1)), "has the label -1"),
    ],
)  # fmt: skip
def test_bad_targets_are_named(targets: Any, message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        small_model().train()(IMAGES, targets)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small_model().train()(IMAGES), "needs targets"),
        (lambda: small_model().eval()([IMAGES[0], IMAGES[1] * torch.nan]), "image 1 holds NaN"),
        (lambda: small_model(test_flip=True).eval()([IMAGES[0][0]]), r"an image has shape \(48, 64\)"),
        (lambda: small_model(test_scales=()), r"test_scales=\(\); give one or more"),
        (lambda: small_model(class_weights=(1.0,)), "class_weights has 1 values for 3 classes"),
        (lambda: small_model(losses=("focal",)), "unknown loss 'focal'"),
        (lambda: vertebra.create_model("deeplabv3", backbone="resnet18", num_classes=1), "2 to 255 are allowed"),
        (lambda: vertebra.create_model("deeplabv3", backbone="resnet18", num_classes=256), "num_classes=256; 2 to 255"),
    ],
)
def test_bad_calls_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        call()


def test_fine_tuning_on_other_classes() -> None:
    """Exactly the last convolutions depend on the classes."""
    torch.manual_seed(1)
    for head in HEADS:
        row = replace(vertebra.head_row(head), aspp_channels=8, aux_weight=0.5)
        source, model = (vertebra.create_model(row, backbone="resnet20", num_classes=k) for k in (5, 3))
        report = vertebra.load_weights(model, source.state_dict(), reset_classes=True)
        assert report.reset_layers == ("classifier.4", "aux_classifier.4")
        assert report.kept == ()


def test_weights_of_another_kind_of_model_bring_their_backbone() -> None:
    backbone = {"backbone": "resnet20", "num_classes": 3}
    segmenter = vertebra.create_model("deeplabv3plus", **backbone)
    classifier = vertebra.create_model("classifier", **backbone)
    report = vertebra.load_weights(segmenter, classifier.state_dict())
    assert set(report.dropped) == {"head.weight", "head.bias"}
    assert all(key.startswith("backbone.") for key in report.loaded)
