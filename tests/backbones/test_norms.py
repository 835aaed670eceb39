"""Norm choices and freezing: what is frozen stays frozen, whatever is called."""

import pytest
import torch
from torch import nn

import vertebra
from vertebra.backbones.fast_convs import PointwiseConv2d, TapsConv2d, WinogradConv2d
from vertebra.backbones.norms import FrozenBatchNorm2d, convolve


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


# --- convolutions and constant norms as one ---------------------------------------------------------------------------


def frozen(channels: int) -> FrozenBatchNorm2d:
    norm = FrozenBatchNorm2d(channels).double()
    state = {name: torch.rand(channels, dtype=torch.float64) + 0.5 for name in ("weight", "running_var")}
    norm.load_state_dict({**state, "bias": torch.randn(channels), "running_mean": torch.randn(channels)})
    return norm


CONVOLUTIONS = {
    "1x1": nn.Conv2d(4, 6, 1, bias=False),
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    "dilated groups": nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, bias=False),
    "with bias": nn.Conv2d(4, 6, (3, 1), padding=(1, 0)),
    "fast 1x1": PointwiseConv2d(4, 6, 1, bias=False),
    "fast 3x3": WinogradConv2d(4, 6, 3, padding=1),
    "fast strided": TapsConv2d(4, 6, 3, stride=2, padding=1, bias=False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_takes_constant_norms_into_its_weight(name: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv, norm = CONVOLUTIONS[name].double(), frozen(6)
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    expected, found = norm(conv(x)), convolve(conv, norm, x)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    given = [x, *conv.parameters()]
    gradients = [torch.autograd.grad((out * weight).sum(), given) for out in (found, expected)]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(convolve(conv, norm, x), expected)


def test_it_keeps_its_input_and_no_weight_of_its_own() -> None:
    conv, norm = CONVOLUTIONS["1x1"].double(), frozen(6)
    kept: list[torch.Tensor] = []
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        convolve(conv, norm, x)
    assert {t.data_ptr() for t in kept if t.ndim == 4} == {x.data_ptr(), conv.weight.data_ptr()}


def test_under_autocast_it_is_in_the_short_type() -> None:
    conv, norm = nn.Conv2d(4, 6, 3, bias=False), frozen(6).float()
    x = torch.randn(1, 4, 5, 5)
    exact = norm(conv(x))
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve(conv, norm, x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.03, atol=0.05)
    found.float().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("watched", ["conv", "norm"])
def test_what_is_watched_runs_by_itself(watched: str) -> None:
    modules = {"conv": CONVOLUTIONS["1x1"].double(), "norm": frozen(6)}
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    outputs: list[torch.Tensor] = []
    with modules[watched].register_forward_hook(lambda module, inputs, output: outputs.append(output)):
        found = convolve(*modules.values(), x)
    assert len(outputs) == 1
    torch.testing.assert_close(found, modules["norm"](modules["conv"](x)))


@pytest.mark.parametrize("name", ["resnet18d", "resnetv2_18", "highway19_bn"])
def test_networks_convolve_with_constant_norms(name: str) -> None:
    """With a hook on each norm they all run by themselves."""
    torch.manual_seed(0)
    network = vertebra.create_backbone(name, norm="frozen_batch").double()
    network.load_state_dict(
        {k: v + torch.rand_like(v) if "running" in k else v for k, v in network.state_dict().items()}
    )
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    wanted = [p for p in network.parameters() if p.requires_grad]

    def run() -> list[torch.Tensor]:
        out = list(network(images).values())
        return [*out, *torch.autograd.grad(sum(x.square().mean() for x in out), wanted)]

    found = run()
    norms = [m for m in network.modules() if isinstance(m, FrozenBatchNorm2d)]
    ran: list[nn.Module] = []
    hooks = [norm.register_forward_hook(lambda norm, inputs, output: ran.append(norm)) for norm in norms]
    expected = run()
    assert len(ran) == len(norms)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found, expected)
