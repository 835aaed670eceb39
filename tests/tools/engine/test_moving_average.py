"""The moving average: its numbers by hand, and that the model gets its own values back."""

import pytest
import torch
from torch import nn

import vertebra
from vertebra.tools.engine.moving_average import MovingAverage


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def set_all(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)


def test_the_decay_warms_up() -> None:
    """Step 1 has d = 2/11 and step 2 has 3/12; step 900 would have 901/910 and has 0.99."""
    model = nn.Linear(1, 1)
    set_all(model, 0.0)
    average = MovingAverage(model, 0.99)
    expected = 0.0
    for step, value, decay in ((1, 1.0, 2 / 11), (2, 3.0, 3 / 12), (900, -2.0, 0.99)):
        set_all(model, value)
        average.update(step)
        expected = decay * expected + (1 - decay) * value
        for found in average.state_dict().values():
            assert float(found) == pytest.approx(expected, rel=1e-6)


def test_parameters_and_statistics_are_averaged_and_counters_are_not(model: nn.Module) -> None:
    average = MovingAverage(model, 0.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    average.update(100)
    found = average.state_dict()
    assert list(found) == list(before)
    for key, now in model.state_dict().items():
        middle = now if key == "1.num_batches_tracked" else (before[key] + now) / 2
        assert not torch.equal(now, before[key]), key
        torch.testing.assert_close(found[key], middle, msg=key)


def test_what_does_not_change_stays_to_the_bit(model: nn.Module) -> None:
    average = MovingAverage(model, 0.9)
    for step in range(1, 30):
        average.update(step)
    for key, value in model.state_dict().items():
        assert torch.equal(average.state_dict()[key], value)


def test_applied_gives_and_takes_to_the_bit(model: nn.Module) -> None:
    average = MovingAverage(model, 0.999)
    images = torch.randn(2, 3, 8, 8)
    set_all(model, 1 / 3)
    average.update(5)
    other = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    other.load_state_dict(average.state_dict())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with average.applied():
        assert torch.equal(model.eval()(images), other(images))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(average.state_dict()[key], value) for key, value in other.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_applied_gives_back_after_an_error(model: nn.Module) -> None:
    average = MovingAverage(model, 0.9)
    set_all(model, 5.0)
    with pytest.raises(RuntimeError, match="channels"), average.applied():
        model(torch.zeros(1, 2, 8, 8))
    assert bool((model[0].weight == 5.0).all())


def test_statistics_renewed_while_applied_stay_in_the_average(model: nn.Module) -> None:
    average = MovingAverage(model, 0.9)
    with average.applied():
        model[1].running_mean.fill_(7.0)
    assert not model[1].running_mean.any()
    assert torch.equal(average.state_dict()["1.running_mean"], torch.full((4,), 7.0))


def test_it_goes_on_from_what_was_saved(model: nn.Module) -> None:
    average = MovingAverage(model, 0.9)
    set_all(model, 2.0)
    average.update(1)
    saved = {key: value.clone() for key, value in average.state_dict().items()}
    again = MovingAverage(model, 0.9)
    again.load_state_dict(saved)
    set_all(model, 1.0)
    for one in (average, again):
        one.update(2)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in average.state_dict().items())


def test_the_average_of_another_model(model: nn.Module) -> None:
    with pytest.raises(vertebra.InputError, match=r"no '0\.weight' and 6 more: it is of another model"):
        MovingAverage(model, 0.9).load_state_dict({})


def test_small_moves_of_short_floats_are_not_lost() -> None:
    """From 1 towards 1.0078125 (the next bfloat16) by hundredths: after 100 steps 1 - 0.99^100 of the way, 0.634."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    set_all(model, 1.0)
    average = MovingAverage(model, 0.99)
    set_all(model, 1.0078125)
    for _ in range(100):
        average.update(10_000)
    assert float(average.state_dict()["weight"]) == pytest.approx(1 + 0.634 * 0.0078125, abs=1e-5)


def test_frozen_and_shared_weights_of_a_whole_model() -> None:
    backbone = vertebra.create_backbone("resnet18", frozen_stages=2)
    average = MovingAverage(backbone, 0.9)
    loss = sum(x.square().mean() for x in backbone.train()(torch.randn(2, 3, 64, 64)).values())
    loss.backward()
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1).step()
    average.update(1)
    fresh = vertebra.create_backbone("resnet18")
    fresh.load_state_dict(average.state_dict())
    assert torch.equal(fresh.conv1.weight, backbone.conv1.weight)
    assert not torch.equal(fresh.layer4[0].conv1.weight, backbone.layer4[0].conv1.weight)
