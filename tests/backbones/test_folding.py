"""Folding norms changes no feature, folds all that it can, and leaves what it may not touch."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from vertebra import Backbone, FeatureInfo, InputError, create_backbone, create_model, create_pyramid
from vertebra.backbones.folding import NORMS, fold_norms_


def with_statistics(model: nn.Module) -> nn.Module:
    """Give norms values other than those they begin with, in float64 and eval mode."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, NORMS):
            state = {
                "weight": torch.empty_like(module.weight).uniform_(0.5, 1.5),
                "bias": torch.empty_like(module.bias).uniform_(-1, 1),
                "running_mean": torch.empty_like(module.running_mean).uniform_(-1, 1),
                "running_var": torch.empty_like(module.running_var).uniform_(0.5, 2),
            }
            module.load_state_dict(state, strict=False)
    return model.double().eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "options", "left"),
    [
        ("resnet18", {}, 0),
        ("resnet18", {"norm": "frozen_batch"}, 0),
        ("resnet18", {"norm": "sync_batch"}, 0),
        ("resnet50d", {"out_features": ("c1", "c2")}, 0),
        ("vgg16_bn", {"out_features": ("c3",)}, 0),
        # Pre-activation: 13 blocks begin with a norm of the sum, and one stands after each of the four stages.
        ("resnetv2_50", {}, 17),
        # A norm of all that came before begins each of 58 layers and three transitions, and one ends the network.
        ("densenet121", {}, 62),
        ("resnet18", {"norm": "group"}, 0),  # none of these is a batch norm
        ("timm/resnet18", {}, 0),
        ("timm/mobilenetv3_small_050", {}, 0),  # norms of timm's with an activation in them
    ],
)
def test_features_are_the_same(name: str, options: dict[str, object], left: int) -> None:
    network = with_statistics(create_backbone(name, **options))
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        wanted = network(images)
        folded = fold_norms_(deepcopy(network))
        found = folded(images)
    assert norms(folded) == left
    assert (norms(network) > left) == (options.get("norm") != "group")
    for feature, value in wanted.items():
        torch.testing.assert_close(found[feature], value, rtol=1e-9, atol=1e-9)


def test_heads_fold_too() -> None:
    """The v2 head has norms in its pyramid, its box head and its mask head."""
    model = with_statistics(create_model("mask_rcnn_v2", backbone="resnet18", num_classes=3))
    assert norms(fold_norms_(model)) == 0


def test_a_pyramid_on_a_network_of_ours() -> None:
    pyramid = with_statistics(create_pyramid("resnet18", fpn_norm="batch"))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        wanted = pyramid(images)
        for name, value in fold_norms_(pyramid)(images).items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-9)


class Odd(Backbone):
    """Convolutions whose output goes elsewhere too: into a sum, out of the network, and through two norms."""

    def __init__(self) -> None:
        super().__init__([FeatureInfo("c1", 4, 1), FeatureInfo("c2", 4, 1)])
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 1) for i in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(5))

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        shown = self.convs[0](images)
        x = self.norms[0](shown)  # shown is returned
        added = self.convs[1](x)
        x = self.norms[1](added) + added
        twice = self.convs[2](x)
        x = self.norms[2](twice) + self.norms[3](twice)
        x = self.norms[4](self.convs[3](x)) + self.convs[3](x)  # the same convolution, with a norm and without
        return {"c1": shown, "c2": self.convs[4](x)}


def test_what_is_used_elsewhere_stays() -> None:
    network = with_statistics(Odd())
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        wanted = network(images)["c2"]
        folded = fold_norms_(network)
        torch.testing.assert_close(folded(images)["c2"], wanted, rtol=1e-12, atol=1e-12)
    assert norms(folded) == 5


def test_norms_without_statistics_are_refused() -> None:
    with pytest.raises(InputError, match="never given statistics"):
        fold_norms_(create_backbone("resnet18", norm="frozen_batch"))
