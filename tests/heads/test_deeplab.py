"""DeepLab: v3 equal to torchvision's with the same weights, and both on any backbone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import segmentation

import vertebra
from vertebra.heads.aspp import ASPP, CONVOLUTIONS
from vertebra.heads.deeplab import DeepLabV3
from vertebra.heads.segmenter import Segmenter

REFERENCES = {"resnet50": segmentation.deeplabv3_resnet50, "resnet101": segmentation.deeplabv3_resnet101}
COUNTS = {"resnet50": 42_004_074, "resnet101": 60_996_202}
SIZE = (40, 56)  # a multiple of 8, not of 32


@pytest.mark.parametrize("backbone", COUNTS)
def test_parameter_counts_are_the_published(backbone: str) -> None:
    with torch.device("meta"):
        model = vertebra.create_model("deeplabv3", backbone=backbone, num_classes=21)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[backbone]
    assert sum(p.numel() for p in model.classifier.parameters()) == 16_130_837
    assert sum(p.numel() for p in model.aux_classifier.parameters()) == 2_365_205


# --- torchvision's ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=REFERENCES)
def pair(
    request: pytest.FixtureRequest, randomise_statistics: Callable[[nn.Module], nn.Module]
) -> tuple[nn.Module, Segmenter]:
    """Torchvision's model and ours with the same weights."""
    torch.manual_seed(0)
    reference = REFERENCES[request.param](weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    randomise_statistics(reference)
    for norm in (m for name, m in reference.named_modules() if name.endswith("bn3")):
        nn.init.uniform_(norm.weight, 0.1, 0.3)  # or activations grow from block to block
    row = replace(vertebra.head_row("deeplabv3"), train_size=None, test_size=None, pad_to=(SIZE,))
    model = vertebra.create_model(row, backbone=request.param, num_classes=21)
    report = vertebra.load_weights(model, reference.state_dict())
    assert (report.dropped, report.kept, report.renamed) == ((), (), ())
    return reference, model


def batch(dtype: torch.dtype) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.rand(3, *SIZE, generator=random).to(dtype) for _ in range(2)]


def both_logits(model: Segmenter, images: list[Tensor]) -> dict[str, Tensor]:
    features = model.backbone(normalised(model, images))
    auxiliary = model.aux_classifier(features)
    return {
        "out": torch.stack(model.logits(images)),
        "aux": F.interpolate(auxiliary, size=SIZE, mode="bilinear", align_corners=False),
    }


def normalised(model: Segmenter, images: list[Tensor]) -> Tensor:
    return torch.stack([model.backbone.preprocessing.normalise(image) for image in images])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_logits_equal_torchvision(pair: tuple[nn.Module, Segmenter], dtype: torch.dtype, bound: float) -> None:
    reference, model = (one.to(dtype).eval() for one in pair)
    images = batch(dtype)
    with torch.no_grad():
        expected, found = reference(normalised(model, images)), both_logits(model, images)
    for name, wanted in expected.items():
        assert found[name].dtype == dtype
        assert float((found[name] - wanted).abs().max()) < bound * float(wanted.abs().max())
        assert float(wanted.std()) > 0.01


def test_a_training_step_equals_torchvision(pair: tuple[nn.Module, Segmenter]) -> None:
    """Losses by the criterion of torchvision's reference scripts, gradients, and running statistics."""
    reference, model = (without_dropout(one.double().train()) for one in pair)
    images = batch(torch.float64)
    labels = torch.randint(0, 21, (2, *SIZE), generator=torch.Generator().manual_seed(2))
    labels[:, :5] = 255
    out = reference(normalised(model, images))
    wanted = {
        "cross_entropy": F.cross_entropy(out["out"], labels, ignore_index=255),
        "aux_cross_entropy": 0.5 * F.cross_entropy(out["aux"], labels, ignore_index=255),
    }
    found = model(images, [{"semantic": one} for one in labels])
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=0)
    for one, losses in ((reference, wanted), (model, found)):
        one.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
    theirs = dict(reference.named_parameters())
    for name, weight in model.named_parameters():
        grad = theirs[name].grad
        assert float((weight.grad - grad).abs().max()) <= 1e-8 * float(grad.abs().max() + 1e-3), name
    state = reference.state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=1e-10, atol=1e-10)


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return model


# --- its parts -------------------------------------------------------------------------------------------------------


def rates(model: Segmenter) -> list[int]:
    return [m.dilation[0] for m in model.classifier.modules() if isinstance(m, nn.Conv2d) and m.dilation[0] > 1]


# arXiv:1706.05587, section 4: 6, 12 and 18 at output stride 16, doubled at 8.
@pytest.mark.parametrize(("stride", "expected"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
@pytest.mark.parametrize("head", ["deeplabv3", "deeplabv3plus"])
def test_rates_follow_the_stride(head: str, stride: int, expected: list[int]) -> None:
    with torch.device("meta"):
        model = vertebra.create_model(head, backbone="resnet18", num_classes=3, output_stride=stride)
    assert rates(model) == expected


def test_rates_can_be_chosen() -> None:
    row = replace(vertebra.head_row("deeplabv3"), aspp_rates=(2, 5))
    with torch.device("meta"):
        model = vertebra.create_model(row, backbone="resnet18", num_classes=3)
    assert rates(model) == [2, 5]


@pytest.mark.parametrize(("head", "stride"), [("deeplabv3", 8), ("deeplabv3plus", 16)])
def test_heads_have_a_stride_of_their_own(head: str, stride: int) -> None:
    with torch.device("meta"):
        model = vertebra.create_model(head, backbone="resnet50", num_classes=21)
    assert model.backbone.feature_info[-1].stride == stride


def test_separable_convolutions_by_hand() -> None:
    """ASPP of 64 channels to 16 at three rates, weights and norms: the sum of what each layer has."""
    plain, separable = (
        ASPP(64, 16, (2, 4, 6), convolution=CONVOLUTIONS[name], norm=nn.BatchNorm2d, dropout=0.5)
        for name in ("plain", "separable")
    )
    beside = 2 * (64 * 16 + 32) + 5 * 16 * 16 + 32  # the 1x1, image pooling, and the projection
    count = [sum(p.numel() for p in aspp.parameters()) for aspp in (plain, separable)]
    assert count[0] == beside + 3 * (9 * 64 * 16 + 32)
    assert count[1] == beside + 3 * (9 * 64 + 2 * 64 + 64 * 16 + 32)


def test_separable_acts_in_the_decoder_too() -> None:
    rows = [replace(vertebra.head_row("deeplabv3plus"), convolution=name) for name in ("plain", "separable")]
    with torch.device("meta"):
        plain, separable = (vertebra.create_model(row, backbone="resnet18", num_classes=3) for row in rows)
    assert [m.groups for m in plain.classifier.modules() if isinstance(m, nn.Conv2d) and m.groups > 1] == []
    grouped = [m.groups for m in separable.classifier.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert grouped == [512, 512, 512, 256 + 48, 256]  # ASPP's three, the decoder's two


# --- any backbone ----------------------------------------------------------------------------------------------------

SMALLEST = [
    "resnet18", "resnet18d", "resnet50c", "resnetv2_18", "resnext50_32x4d", "densenet121", "vgg16_bn", "plain18",
    "resnet20", "wrn40_1", "densenet40_k12", "densenet_bc100_k12", "highway32_bn", "plain20", "timm/test_resnet",
]  # fmt: skip


def small_row(head: str, **changes: Any) -> DeepLabV3:
    small: dict[str, Any] = {"train_size": None, "test_size": None, "aspp_channels": 8}
    if head == "deeplabv3plus":
        small |= {"fine_channels": 4, "decoder_channels": 8}
    return replace(vertebra.head_row(head), **{**small, **changes})


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("head", ["deeplabv3", "deeplabv3plus"])
@pytest.mark.parametrize("backbone", SMALLEST)
def test_every_family_trains(backbone: str, head: str, stride: int) -> None:
    """Logits have the size of the image, and every weight has a gradient."""
    torch.manual_seed(0)
    model = vertebra.create_model(small_row(head), backbone=backbone, num_classes=3, output_stride=stride).train()
    deepest = model.backbone.feature_info[-1].stride
    assert deepest <= stride
    images = [torch.rand(3, 33, 40), torch.rand(3, 20, 64)]
    targets = [{"semantic": torch.randint(0, 3, image.shape[-2:])} for image in images]
    losses = model(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(bool(value.isfinite()) for value in losses.values())
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.isfinite().all()), name
    with torch.no_grad():
        logits = model.eval().logits(images)
        features = model.backbone(torch.zeros(1, 3, 64, 64))
    assert [tuple(one.shape) for one in logits] == [(3, 33, 40), (3, 20, 64)]
    own = deepest if head == "deeplabv3" else model.backbone.feature_info[0].stride
    assert model.classifier(features).shape == (1, 3, 64 // own, 64 // own)


@pytest.mark.parametrize(
    ("backbone", "head", "expected"),
    [
        ("resnet18", "deeplabv3", [("c4", 8), ("c5", 8)]),
        ("resnet18", "deeplabv3plus", [("c2", 4), ("c5", 16)]),
        ("vgg16_bn", "deeplabv3plus", [("c3", 4), ("c6", 16)]),
        ("resnet20", "deeplabv3plus", [("c3", 2), ("c4", 4)]),  # the deepest is at 4: the next finer one
    ],
)
def test_only_what_is_needed_is_built(backbone: str, head: str, expected: list[tuple[str, int]]) -> None:
    with torch.device("meta"):
        model = vertebra.create_model(head, backbone=backbone, num_classes=3)
    assert [(info.name, info.stride) for info in model.backbone.feature_info] == expected


def test_without_the_auxiliary_head() -> None:
    """The weights of a model with one fit; the reverse is a mistake."""
    backbone = replace(vertebra.row("resnet18"), depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    with_aux, without = (
        vertebra.create_model(small_row("deeplabv3", aux_weight=weight), backbone=backbone, num_classes=3)
        for weight in (0.5, None)
    )
    report = vertebra.load_weights(without, with_aux.state_dict())
    assert report.dropped == tuple(sorted(key for key in with_aux.state_dict() if key.startswith("aux_classifier.")))
    assert len(report.dropped) == 8
    assert report.kept == ()
    with pytest.raises(vertebra.InputError, match="7 keys are missing"):
        vertebra.load_weights(with_aux, without.state_dict())


def test_the_weight_of_the_auxiliary_head() -> None:
    images, targets = [torch.rand(3, 32, 32)] * 2, [{"semantic": torch.ones(32, 32, dtype=torch.int64)}] * 2
    values = []
    for weight in (0.5, 0.25):
        torch.manual_seed(0)
        row = small_row("deeplabv3", aux_weight=weight)
        model = vertebra.create_model(row, backbone="resnet20", num_classes=3).eval()
        values.append(model.losses(images, targets)["aux_cross_entropy"].item())
    assert values[0] == pytest.approx(2 * values[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: vertebra.head_row("deeplabv3")(vertebra.create_pyramid("resnet18"), 3),
            "not on a pyramid .*p2 at stride 4, .*: give it pyramid.body",
        ),
        (
            lambda: vertebra.create_model("deeplabv3", backbone="resnet18", num_classes=3, out_features=("c5",)),
            "a feature before the deepest, but the backbone has c5 at stride 8 alone",
        ),
        (
            lambda: vertebra.create_model(
                "deeplabv3plus", backbone="resnet18", num_classes=3, out_features=("c3", "c5")
            ),
            "stride 4 or finer before the deepest, but the backbone has c3 at stride 8, c5 at stride 16",
        ),
        (
            lambda: vertebra.create_model(
                small_row("deeplabv3", convolution="seperable"), backbone="resnet20", num_classes=3
            ),
            "Did you mean 'separable'",
        ),
    ],
)
def test_bad_calls_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        call()
