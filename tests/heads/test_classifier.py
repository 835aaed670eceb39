"""The classifier: against torchvision's, and as what pretrains the backbones of other heads."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

import vertebra
from vertebra.heads import create_model, head_row, load_weights
from vertebra.heads.classifier import CLASSIFIER

IMAGES = [torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(i)) for i in range(2)]
TARGETS = [{"label": torch.tensor(2)}, {"label": torch.tensor(0)}]


def small(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return replace(CLASSIFIER["classifier"], **options)(vertebra.create_backbone("resnet20"), 4)


@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
def test_scores_are_those_of_torchvisions_classifier(size: tuple[int, int]) -> None:
    reference = torchvision.models.resnet18(num_classes=7).double().eval()
    model = create_model("classifier", backbone="resnet18", num_classes=7).double().eval()
    state = reference.state_dict()
    load_weights(model, {f"backbone.{key}".replace("backbone.fc.", "head."): state[key] for key in state})
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    (first, second) = model(list(images))
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)[..., None, None]
    expected = reference((images - mean) / std).softmax(dim=1)
    torch.testing.assert_close(torch.stack([first["scores"], second["scores"]]).double(), expected, atol=1e-6, rtol=0)
    assert int(first["label"]) == int(expected[0].argmax())


def test_the_loss_is_the_cross_entropy_of_the_logits() -> None:
    model = small(label_smoothing=0.1).train()
    losses = model.eval().losses(IMAGES, TARGETS)
    log = model.logits(IMAGES).log_softmax(dim=1)
    # A tenth of the weight is spread over all four classes.
    expected = -(0.9 * (log[0, 2] + log[1, 0]) / 2 + 0.1 * log.mean())
    torch.testing.assert_close(losses["cross_entropy"], expected)


def test_it_learns_two_pictures() -> None:
    model = small().train()
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(30):
        (loss,) = model(IMAGES, TARGETS).values()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss) < 0.1
    assert all(p.grad is not None for p in model.parameters())


def test_its_backbone_goes_into_every_other_head() -> None:
    source = create_model("classifier", backbone="resnet18", num_classes=4)
    for head, prefix in (("faster_rcnn", "backbone.body."), ("deeplabv3", "backbone.")):
        model = create_model(head, backbone="resnet18", num_classes=3)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        report = load_weights(model, source.state_dict())
        after = model.state_dict()
        assert report.dropped == ("head.bias", "head.weight")
        for key, value in source.backbone.state_dict().items():
            assert torch.equal(after[prefix + key], value)
        others = [key for key in after if not key.startswith(prefix)]
        assert set(others) <= set(report.kept)
        assert all(torch.equal(after[key], before[key]) for key in others)


def test_a_model_of_the_same_kind_that_does_not_fit_is_refused() -> None:
    """Its backbone alone is not what was meant."""
    source = create_model("faster_rcnn", backbone="resnet18", num_classes=3)
    with pytest.raises(vertebra.InputError, match="does not fit MaskDetector"):
        load_weights(create_model("mask_rcnn", backbone="resnet18", num_classes=3), source.state_dict())


def test_other_classes_start_afresh() -> None:
    source, model = small(), CLASSIFIER["classifier"](vertebra.create_backbone("resnet20"), 9)
    with pytest.raises(vertebra.InputError, match="reset_classes=True loads all the others"):
        load_weights(model, source.state_dict())
    report = load_weights(model, source.state_dict(), reset_classes=True)
    assert report.reset_layers == ("head",)


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (IMAGES, TARGETS[:1], "2 images came with 1 targets"),
        (IMAGES, [TARGETS[0], {}], r"targets\[1\]\['label'\] is nothing; an int64 without dimensions"),
        (IMAGES, [TARGETS[0], {"label": torch.tensor([1])}], r"int64 of shape \(1,\)"),
        (IMAGES, [TARGETS[0], {"label": torch.tensor(4)}], r"targets\[1\]\['label'\] is 4; 0 to 3 are allowed"),
        ([IMAGES[0], torch.rand(3, 40, 40)], TARGETS, "of sizes 32x48, 40x40 .* a classifier needs one size"),
    ],
)
def test_bad_targets(images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]], message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        small().train()(images, targets)


def test_the_rows_of_the_table() -> None:
    assert head_row("classifier") is CLASSIFIER["classifier"]
    with pytest.raises(vertebra.InputError, match="nothing to tell apart"):
        create_model("classifier", backbone="resnet18", num_classes=1)
    with pytest.raises(vertebra.InputError, match="needs targets"):
        small().train()(IMAGES)
