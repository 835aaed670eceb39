"""The formats: what each computes in, and what a device is given."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import vertebra
from vertebra.tools.engine.optimisation import make_optimiser
from vertebra.tools.engine.precision import PRECISIONS, pick_precision
from vertebra.tools.settings import Optim

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A GPU of the compute capability that the test names, as far as its properties go."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: request.param)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")


@pytest.fixture
def torch_settings() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_products_are_in_the_format_and_weights_in_float32(name: str, dtype: torch.dtype) -> None:
    conv = nn.Conv2d(3, 4, 3)
    with pick_precision(name, CPU).autocast(CPU):
        found = conv(torch.rand(1, 3, 8, 8))
    assert found.dtype is dtype
    found.float().sum().backward()
    assert conv.weight.dtype is conv.weight.grad.dtype is torch.float32


def step(name: str, value: float) -> tuple[float, torch.amp.GradScaler]:
    """Take a step of gradient descent on 2^-18 w * value, and return by how much w fell, and the scaler."""
    precision = PRECISIONS[name]
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    scaler = precision.scaler(CPU)
    with precision.autocast(CPU):
        found = layer(torch.full((1, 1), value))
    scaler.scale(2.0**-18 * found.sum().float()).backward()
    scaler.step(optimiser)
    scaler.update()
    return -float(layer.weight.detach()), scaler


def test_float16_keeps_small_gradients_by_scaling() -> None:
    """The gradient 2^-26 is less than half of float16's smallest number, 2^-24."""
    assert torch.tensor(2.0**-26).half() == 0
    assert step("float16", 2.0**-8)[0] == 2.0**-26


def test_a_step_that_overflows_is_left_out_and_the_scale_is_halved() -> None:
    fell, scaler = step("float16", 4e4)
    assert fell == pytest.approx(4e4 * 2.0**-18, rel=1e-3)
    assert scaler.get_scale() == 2.0**16
    fell, scaler = step("float16", float("inf"))
    assert fell == 0
    assert scaler.get_scale() == 2.0**15


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_step_that_overflows_leaves_no_trace_in_the_optimiser(kind: str) -> None:
    """After one of infinite gradients, one of gradient 1 is as the first: of SGD at rate 0.5, by 0.5."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimiser = make_optimiser(layer, Optim(name=kind, lr=0.5, weight_decay=0.0))
    scaler = PRECISIONS["float16"].scaler(CPU)
    for value in (float("inf"), 1.0):
        assert not optimiser.state
        optimiser.zero_grad()
        scaler.scale(layer.weight.sum() * value).backward()
        scaler.step(optimiser)
        scaler.update()
    assert float(layer.weight.detach()) == pytest.approx(-0.5)


@pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16"])
def test_the_others_have_a_scaler_that_does_nothing(name: str) -> None:
    scaler = PRECISIONS[name].scaler(CPU)
    assert not scaler.is_enabled()
    assert scaler.state_dict() == {}
    loss = torch.ones(1)
    assert scaler.scale(loss) is loss


@pytest.mark.usefixtures("torch_settings")
def test_only_tf32_multiplies_in_tf32() -> None:
    for name in ("tf32", "float32", "tf32", "bfloat16"):
        PRECISIONS[name].prepare()
        settings = {torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32}
        assert settings == {name == "tf32"}


def test_auto_on_a_cpu() -> None:
    assert pick_precision("auto", CPU) is PRECISIONS["float32"]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("gpu", "name"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16")], indirect=["gpu"]
)
def test_auto_on_a_gpu(name: str) -> None:
    assert pick_precision("auto", GPU).name == name


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("gpu", [(7, 5)], indirect=True)
def test_what_an_older_gpu_lacks() -> None:
    says = r"'bfloat16' is not for the GPU Some GPU \(compute capability 7\.5\), which has float16, float32;"
    with pytest.raises(vertebra.InputError, match=says):
        pick_precision("bfloat16", GPU)


def test_what_a_cpu_lacks() -> None:
    with pytest.raises(
        vertebra.InputError, match="'tf32' is not for the device cpu, which has float32, bfloat16, float16"
    ):
        pick_precision("tf32", CPU)


def test_an_unknown_name() -> None:
    with pytest.raises(vertebra.InputError, match=r"unknown engine\.precision 'bf16'.* Did you mean 'bfloat16'"):
        pick_precision("bf16", CPU)
