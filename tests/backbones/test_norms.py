"""Norm choices and freezing: what is frozen stays frozen, whatever is called."""

import pytest
import torch
from torch import nn

import vertebra


def test_frozen_batch_refuses_statistics_that_were_never_loaded() -> None:
    network = vertebra.create_backbone("resnet18", norm="frozen_batch")
    with pytest.raises(vertebra.InputError, match="never given statistics: load weights first"):
        network(torch.randn(1, 3, 32, 32))


def test_frozen_batch_equals_batch_in_eval_mode() -> None:
    torch.manual_seed(0)
    batch = vertebra.create_backbone("resnet18")
    for _ in range(2):
        batch(torch.randn(4, 3, 32, 32))
    frozen = vertebra.create_backbone("resnet18", norm="frozen_batch", weights=batch.state_dict()).train()
    images = torch.randn(2, 3, 64, 64)
    for key, value in batch.eval()(images).items():
        torch.testing.assert_close(frozen(images)[key], value, rtol=1e-4, atol=1e-5)
    assert not any("bn" in name for name, _ in frozen.named_parameters())


@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", nn.BatchNorm2d), ("sync_batch", nn.SyncBatchNorm), ("group", nn.GroupNorm)]
)
def test_norm_is_used_everywhere(norm: str, kind: type[nn.Module]) -> None:
    network = vertebra.create_backbone("resnet18", norm=norm)
    found = [m for m in network.modules() if isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm))]
    # The stem's, two in each of eight blocks, and one in each of three projections.
    assert len(found) == 1 + 16 + 3
    assert all(type(m) is kind for m in found)
    network.eval()(torch.randn(1, 3, 32, 32))


def test_unknown_norm() -> None:
    with pytest.raises(vertebra.InputError, match=r"unknown norm 'bacth'\. Did you mean 'batch'"):
        vertebra.create_backbone("resnet18", norm="bacth")


@pytest.mark.parametrize("count", range(6))
def test_frozen_stages_survive_training(count: int) -> None:
    torch.manual_seed(0)
    network = vertebra.create_backbone("resnet18", frozen_stages=count)
    stages = [("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)]
    frozen = tuple(f"{name}." for stage in stages[:count] for name in stage)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.eval()
    network.train()
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad] or [torch.zeros(1)], lr=0.1)
    loss = sum(feature.square().mean() for feature in network(torch.randn(2, 3, 64, 64)).values())
    if count < 5:
        loss.backward()
    optimiser.step()
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad is not key.startswith(frozen or ("-",)), key
    for key, value in network.state_dict().items():
        changed = not torch.equal(value, before[key])
        assert changed is not key.startswith(frozen or ("-",)), key


def test_more_frozen_stages_than_there_are() -> None:
    with pytest.raises(vertebra.InputError, match="frozen_stages=6, but there are 5 stages"):
        vertebra.create_backbone("resnet18", frozen_stages=6)


def test_frozen_norms_keep_the_dtype_of_autocast() -> None:
    network = vertebra.create_backbone("resnet18", norm="frozen_batch")
    network.load_state_dict(vertebra.create_backbone("resnet18").state_dict(), strict=False)
    with torch.autocast("cpu", torch.bfloat16):
        features = network(torch.rand(1, 3, 64, 64))
    assert {x.dtype for x in features.values()} == {torch.bfloat16}


def test_synchronised_norms_are_recomputed_as_plain_ones_are() -> None:
    """In one process they are the same layer, which counts its batches once though it runs twice."""
    torch.manual_seed(0)
    plain = vertebra.create_backbone("resnet18")
    synced = vertebra.create_backbone("resnet18", norm="sync_batch", checkpointing=True)
    synced.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for network in (plain, synced):
        sum(feature.square().mean() for feature in network(images).values()).backward()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, synced.state_dict()[key]), key
    for (key, ours), other in zip(plain.named_parameters(), synced.parameters(), strict=True):
        assert torch.allclose(ours.grad, other.grad, rtol=1e-5, atol=1e-7), key
