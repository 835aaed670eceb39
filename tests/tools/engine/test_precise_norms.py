"""Precise batch norms: the statistics of all that was given, and nothing else changed."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vertebra
from vertebra.heads import head_row
from vertebra.tools.engine.precise_norms import check_norms, refresh_norms

CPU = torch.device("cpu")


@pytest.fixture
def batches() -> list[Tensor]:
    """Batches of different sizes, of values far from 0."""
    torch.manual_seed(0)
    return [torch.randn(2, 3, 32 + 16 * i, 32) * (1 + i) + 10 for i in range(3)]


def test_statistics_are_those_of_all_values_together(batches: list[Tensor]) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    refresh_norms(model, batches, model)
    everything = torch.cat([batch.double().transpose(0, 1).flatten(1) for batch in batches], dim=1)
    torch.testing.assert_close(model[0].running_mean.double(), everything.mean(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(model[0].running_var.double(), everything.var(dim=1, correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "norm"), [("resnet18", "batch"), ("resnetv2_18", "sync_batch")])
def test_of_one_batch_evaluation_gives_what_training_gives(name: str, norm: str) -> None:
    torch.manual_seed(0)
    network = vertebra.create_backbone(name, norm=norm).double().train()
    images = torch.randn(2, 3, 64, 64).double()
    for _ in range(3):  # statistics that lag behind
        network(images * 3 + 1)
    wanted = network(images)
    refresh_norms(network, [images], network)
    for key, value in network.eval()(images).items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-9, atol=1e-9)


def test_nothing_else_changes(batches: list[Tensor]) -> None:
    torch.manual_seed(0)
    network = vertebra.create_backbone("resnet18", frozen_stages=2).train()
    network(batches[0])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    refresh_norms(network, batches, network)
    assert torch.equal(torch.get_rng_state(), random)
    assert network.training
    assert not network.bn1.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}
    for key, value in network.state_dict().items():
        changes = key.endswith(("running_mean", "running_var")) and not key.startswith(("bn1.", "layer1."))
        assert torch.equal(value, before[key]) is not changes, key


def test_it_gives_the_same_again(batches: list[Tensor]) -> None:
    torch.manual_seed(0)
    network = vertebra.create_backbone("resnet18")
    seen = []
    for _ in range(2):
        refresh_norms(network, batches, network)
        seen.append({key: value.clone() for key, value in network.state_dict().items()})
    assert all(torch.equal(value, seen[1][key]) for key, value in seen[0].items())


def test_dropout_is_off_as_in_evaluation(batches: list[Tensor]) -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))
    refresh_norms(model, batches[:1], model)
    torch.testing.assert_close(model[1].running_var, batches[0].var(dim=(0, 2, 3), correction=0))


def test_norms_that_nothing_reaches_stay() -> None:
    model = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
    for norm in model:
        nn.init.constant_(norm.running_mean, 5.0)
    refresh_norms(
        model, [torch.randn(4, 3, 8, 8), torch.empty(0, 3, 8, 8)], lambda batch: model[0 if len(batch) else 1](batch)
    )
    assert [bool((norm.running_mean == 5).all()) for norm in model] == [False, True, True]


def test_a_norm_that_is_called_twice_sees_both(batches: list[Tensor]) -> None:
    norm, once = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    refresh_norms(norm, [batches], lambda several: [norm(batch) for batch in several])
    refresh_norms(once, batches, once)
    assert torch.equal(norm.running_var, once.running_var)


def test_processes_with_batches_of_their_own_are_one_with_all(batches: list[Tensor]) -> None:
    """The other process's sums, which `mean` would fetch, are taken from a run on its batches."""
    sums: list[Tensor] = []

    def noting(total: Tensor) -> Tensor:
        sums.append(total.clone())
        return total

    def meeting(total: Tensor) -> Tensor:
        return (total + sums[0]) / 2

    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
    refresh_norms(network, batches[1:], network, noting)
    refresh_norms(network, batches[:1], network, meeting)
    shared = {key: value.clone() for key, value in network.state_dict().items()}
    refresh_norms(network, batches, network)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, shared[key], rtol=1e-6, atol=1e-6)


def test_a_compiled_trunk(batches: list[Tensor]) -> None:
    torch.manual_seed(0)
    network, plain = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(2))
    plain.load_state_dict(network.state_dict())
    network.compile(backend="eager")
    network(batches[0])
    for one in (network, plain):
        refresh_norms(one, batches, one)
    torch.testing.assert_close(network[1].running_var, plain[1].running_var, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        (
            "faster_rcnn_v2",
            {"box_head_channels": 16, "fpn_norm": "sync_batch", "head_norm": "sync_batch", "fpn_channels": 16},
        ),
        ("deeplabv3plus", {"head_norm": "sync_batch"}),
    ],
)
def test_synchronised_norms_everywhere_in_one_process(
    head: str,
    settings: dict[str, object],
    detection_and_labels: Callable[[int], tuple[list[Tensor], list[dict[str, Tensor]]]],
) -> None:
    """They train on a CPU, and their statistics are renewed as those of other batch norms."""
    torch.manual_seed(0)
    model = vertebra.create_model(
        replace(head_row(head), train_size=None, test_size=None, **settings),
        backbone="resnet18",
        norm="sync_batch",
        num_classes=3,
    )
    check_norms(model, CPU)
    images, targets = detection_and_labels(2)
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    before = {name: norm.running_mean.clone() for name, norm in norms.items()}
    refresh_norms(model, [(images, targets)], lambda batch: model.losses(*batch))
    assert not [name for name, norm in norms.items() if torch.equal(norm.running_mean, before[name])]


@pytest.fixture
def detection_and_labels() -> Callable[[int], tuple[list[Tensor], list[dict[str, Tensor]]]]:
    def make(count: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        target = {
            "boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]),
            "labels": torch.tensor([1]),
            "semantic": torch.zeros(64, 64, dtype=torch.uint8),
        }
        return [torch.rand(3, 64, 64) for _ in range(count)], [dict(target) for _ in range(count)]

    return make


def test_synchronised_norms_of_several_processes_need_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    network = vertebra.create_backbone("resnet18", norm="sync_batch", frozen_stages=1).eval()
    says = r"layer1\.0\.bn1 and 18 more norms are sync_batch, .* not on cpu: choose batch, group or frozen_batch"
    with pytest.raises(vertebra.InputError, match=says):
        check_norms(network, CPU)
    assert not network.training
    check_norms(network, torch.device("cuda"))
    check_norms(vertebra.create_backbone("resnet18"), CPU)
    check_norms(vertebra.create_backbone("resnet18", norm="sync_batch", frozen_stages=5), CPU)


PROCESS = """
    import sys
    import torch
    import vertebra
    from vertebra.tools.engine.precise_norms import check_norms, refresh_norms

    rank, place, cpu = int(sys.argv[1]), sys.argv[2], torch.device("cpu")
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)

    def mean(values):
        torch.distributed.all_reduce(values)
        return values / 2

    norm = torch.nn.BatchNorm2d(1)
    refresh_norms(norm, [torch.full((1, 1, 2, 2), 3.0 + rank)] * (1 + 2 * rank), norm, mean)
    print(float(norm.running_mean), float(norm.running_var))
    try:
        torch.nn.SyncBatchNorm(1)(torch.rand(2, 1, 2, 2))
    except ValueError as error:
        print(error)
    try:
        check_norms(vertebra.create_backbone("resnet18", norm="sync_batch", frozen_stages=1), cpu)
    except vertebra.InputError as error:
        print(error)
"""


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Of 3 once and 4 three times the mean is 3.75, and the variance 3/16; and torch cannot synchronise on CPUs."""
    code = textwrap.dedent(PROCESS)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120)[0].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    for numbers, torchs, ours in said:
        assert numbers == "3.75 0.1875"
        assert "SyncBatchNorm expected input tensor to be on GPU" in torchs
        assert ours.startswith(
            "layer1.0.bn1 and 18 more norms are sync_batch, which several processes can train on CUDA"
        )
        assert "choose batch, group or frozen_batch" in ours
