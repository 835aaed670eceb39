"""Backbones in mmengine's registry, configs, runner and checkpoints: what mmdetection is, less its compiled package."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

pytest.importorskip("mmengine", reason="mmengine is not installed: pip install 'vertebra[mmengine]'")

from mmengine.config import Config
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.registry import MODELS, Registry
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

import vertebra
from vertebra.backbones import registry
from vertebra.backbones.adapters import mmdet as adapter

ELSEWHERE = Registry("model", parent=MODELS, scope="elsewhere")  # as mmdetection's own, which also looks in its parent
PICTURES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)  # RGB
BGR = [torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1) for picture in PICTURES]
DATA = [{"inputs": picture, "data_samples": torch.tensor(i % 3)} for i, picture in enumerate(BGR)]
Build = Callable[..., adapter.VertebraBackbone]


class Classifier(BaseModel):  # type: ignore[misc]
    """As small as a model on mmengine can be."""

    def __init__(self, backbone: dict[str, Any]) -> None:
        preprocessor = {"type": "ImgDataPreprocessor", **adapter.data_preprocessor(backbone["name"])}
        super().__init__(data_preprocessor=preprocessor)
        self.backbone = MODELS.build({"type": "VertebraBackbone", **backbone})
        self.head = nn.Linear(sum(self.backbone.out_channels), 3)

    def forward(self, inputs: Tensor, data_samples: Tensor | None = None, mode: str = "tensor") -> Any:
        logits = self.head(torch.cat([x.mean(dim=(2, 3)) for x in self.backbone(inputs)], dim=1))
        return {"loss": nn.functional.cross_entropy(logits, data_samples)} if mode == "loss" else logits

    def scores(self) -> Tensor:
        """What the model says of all pictures, in evaluation."""
        self.eval()
        with torch.no_grad():
            return self(self.data_preprocessor({"inputs": torch.stack(BGR)})["inputs"])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runner]:
    """The runner of mmengine over the pictures, with its checkpoints in the test's folder."""
    # mmengine 0.10.7 pickles objects into its checkpoints and reads them with torch's default, which refuses since 2.6.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    names = iter(range(100))

    def build(model: nn.Module, iterations: int = 10, **options: Any) -> Runner:
        return Runner(
            model=model,
            work_dir=str(tmp_path),
            train_dataloader={
                "dataset": DATA,
                "sampler": {"type": "InfiniteSampler"},
                "batch_size": 2,
                "num_workers": 0,
                "collate_fn": {"type": "default_collate"},
            },
            train_cfg={"by_epoch": False, "max_iters": iterations},
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.05}},
            default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 2, "by_epoch": False}},
            log_level="ERROR",
            experiment_name=f"{tmp_path.name}_{next(names)}",
            **options,
        )

    return build


def every_stage(name: str) -> tuple[int, ...]:
    with torch.device("meta"):
        return tuple(range(len(vertebra.create_backbone(name).feature_info)))


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {key for key, value in state_of(module).items() if not torch.equal(value, before[key])}


def backbone(name: str = "small_resnet18", **options: Any) -> adapter.VertebraBackbone:
    return MODELS.build({"type": "VertebraBackbone", "name": name, **options})


# --- a model of each family -----------------------------------------------------------------------------------------


def test_features_are_those_of_the_bare_backbone(family: str) -> None:
    stages = every_stage(family)
    ours = backbone(family, out_indices=stages).eval()
    bare = vertebra.create_backbone(family).eval()
    bare.load_state_dict(ours.body.state_dict())
    images = torch.rand(2, 3, 64, 96)
    features = ours(images)
    assert isinstance(features, tuple)
    assert [x.shape[1] for x in features] == ours.out_channels == adapter.channels(family, stages)
    for given, expected in zip(features, bare(images).values(), strict=True):
        assert torch.equal(given, expected)


def test_training_checkpoints_and_resuming(family: str, run: Callable[..., Runner], tmp_path: Path) -> None:
    settings = {"name": family, "out_indices": every_stage(family)}
    model = Classifier(settings)
    model(torch.rand(2, 3, 64, 64), torch.tensor([0, 1]), mode="loss")["loss"].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key

    run(model, iterations=2).train()
    again = Classifier(settings)
    run(again).load_checkpoint(str(tmp_path / "iter_2.pth"), strict=True)
    assert torch.equal(again.scores(), model.scores())
    resumed = run(Classifier(settings), iterations=4, resume=True)
    resumed.train()
    assert resumed.iter == 4
    assert moved(state_of(model), resumed.model) == state_of(model).keys()


def running(model: nn.Module) -> set[str]:
    return {key for key in model.state_dict() if "running_" in key}


def test_frozen_stages_do_not_move_in_the_runner(family: str, run: Callable[..., Runner]) -> None:
    model = Classifier({"name": family, "out_indices": every_stage(family), "frozen_stages": 1})
    body = model.backbone.body
    there = [module for stage in body.stages()[:2] for module in stage]
    frozen = [f"{name}." for name, module in body.named_modules() if any(module is one for one in there)]
    before = state_of(body)
    run(model).train()
    expected = {key for key in before if not key.startswith(tuple(frozen))}
    assert frozen
    assert moved(before, body) == expected


# --- freezing and norms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frozen_stages", "stem", "first", "second"), [(-1, 1, 1, 1), (0, 0, 1, 1), (2, 0, 0, 0)])
def test_stages_are_counted_as_mmdetection_does(frozen_stages: int, stem: bool, first: bool, second: bool) -> None:
    body = backbone(frozen_stages=frozen_stages).train().body
    parts = (body.conv1, body.layer1, body.layer2)
    assert [all(p.requires_grad for p in part.parameters()) for part in parts] == [stem, first, second]
    assert [part.training for part in (body.bn1, body.layer1, body.layer2)] == [stem, first, second]
    assert body.layer3.training
    assert all(p.requires_grad for p in body.layer3.parameters())


def test_norm_eval_keeps_running_statistics(run: Callable[..., Runner]) -> None:
    model = Classifier({"name": "small_resnet50", "norm_eval": True})
    before = state_of(model.backbone)
    run(model).train()
    assert moved(before, model.backbone) == before.keys() - running(model.backbone)


def test_norms_without_gradient(run: Callable[..., Runner]) -> None:
    model = Classifier({"name": "small_resnet50", "norm_cfg": {"type": "BN", "requires_grad": False}})
    before = state_of(model.backbone)
    affine = {
        f"{name}.{key}"
        for name, module in model.backbone.named_modules()
        if isinstance(module, _BatchNorm)
        for key in ("weight", "bias")
    }
    run(model).train()
    assert moved(before, model.backbone) == before.keys() - affine


@pytest.mark.parametrize(
    ("norm_cfg", "kind"),
    [
        ({"type": "BN", "requires_grad": True}, nn.BatchNorm2d),
        ({"type": "SyncBN"}, nn.SyncBatchNorm),
        ({"type": "GN", "num_groups": 32}, nn.GroupNorm),
    ],
)
def test_norms_by_their_names(norm_cfg: dict[str, Any], kind: type[nn.Module]) -> None:
    body = backbone(norm_cfg=norm_cfg).body
    assert type(body.bn1) is kind
    assert body.bn1.weight.requires_grad


def test_frozen_stages_stay_frozen_where_the_runner_replaces_synchronised_norms(run: Callable[..., Runner]) -> None:
    model = Classifier({"name": "small_resnet18", "frozen_stages": 1, "norm_cfg": {"type": "SyncBN"}})
    before = state_of(model.backbone.body)
    trained = run(model).train()  # one process: mmengine puts plain batch norms in their place
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in trained.modules())
    assert moved(before, trained.backbone.body) == {
        key for key in before if not key.startswith(("conv1.", "bn1.", "layer1."))
    }


# --- the other options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("output_stride", "strides"), [(8, [4, 8, 8, 8]), (16, [4, 8, 16, 16]), (32, [4, 8, 16, 32])])
def test_output_stride(output_stride: int, strides: list[int]) -> None:
    ours = backbone(output_stride=output_stride)
    assert [info.stride for info in ours.feature_info] == strides
    assert [128 // x.shape[-1] for x in ours(torch.rand(2, 3, 128, 128))] == strides


def test_levels_are_counted_in_stages() -> None:
    ours = backbone(out_indices=(1, 2))
    assert [info.name for info in ours.feature_info] == ["c3", "c4"]
    assert not hasattr(ours.body, "layer4")


@pytest.mark.parametrize("count", [1, 4])
def test_other_input_channels(count: int) -> None:
    assert backbone(in_channels=count)(torch.rand(2, count, 64, 64))[0].shape == (2, 16, 16, 16)
    preprocessor = adapter.data_preprocessor("small_resnet18", in_channels=count)
    assert len(preprocessor["mean"]) == len(preprocessor["std"]) == count
    assert not preprocessor["bgr_to_rgb"]


def test_activations_are_recomputed() -> None:
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        ours = backbone("small_resnet50", with_cp=with_cp).train()
        calls = []
        ours.body.layer1[0].conv1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        sum(x.square().mean() for x in ours(torch.ones(2, 3, 64, 64))).backward()
        gradients.append([p.grad for p in ours.parameters()])
        assert len(calls) == 1 + with_cp
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_paths_are_dropped_in_training_alone() -> None:
    torch.manual_seed(0)
    ours = backbone("small_resnet50", drop_path=0.9, norm_eval=True).train()
    images = torch.rand(2, 3, 64, 64)
    assert not torch.equal(ours(images)[3], ours(images)[3])
    ours.eval()
    assert torch.equal(ours(images)[3], ours(images)[3])


# --- registry and configs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["VertebraBackbone", "mmengine.VertebraBackbone", adapter.VertebraBackbone])
def test_found_from_another_librarys_registry(kind: Any) -> None:
    assert type(ELSEWHERE.build({"type": kind, "name": "small_resnet18"})) is adapter.VertebraBackbone


OLD_CONFIG = """
_base_ = ["base.py"]
from vertebra.backbones.adapters.mmdet import channels, data_preprocessor
custom_imports = dict(imports=["vertebra.backbones.adapters.mmdet"])
backbone = dict(_delete_=True, type="VertebraBackbone", name="resnet18", out_indices=(1, 3), frozen_stages=1)
neck = dict(in_channels=channels("resnet18", (1, 3)))
preprocessor = data_preprocessor("resnet18")
"""
IMPORTED_CONFIG = """
custom_imports = dict(imports=["vertebra.backbones.adapters.mmdet"])
backbone = dict(type="VertebraBackbone", name="resnet18", out_indices=(1, 3))
"""
LAZY_CONFIG = """
from vertebra.backbones.adapters.mmdet import VertebraBackbone
backbone = dict(type=VertebraBackbone, name="resnet18", out_indices=(1, 3))
"""
READ = """
from mmengine import Config, MODELS
for name in ("imported", "old", "lazy"):
    config = Config.fromfile(f"{name}.py")
    print(MODELS.build(config.backbone).out_channels)
"""


def test_config_files(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("backbone = dict(type='ResNet', depth=50)\nneck = dict(type='FPN')\n")
    for name, text in (("old", OLD_CONFIG), ("imported", IMPORTED_CONFIG), ("lazy", LAZY_CONFIG)):
        (tmp_path / f"{name}.py").write_text(text)
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.split("\n")[-4:] == [*["[128, 512]"] * 3, ""], done.stderr


def test_calls_in_a_config_leave_plain_values(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("backbone = dict(type='ResNet', depth=50)\nneck = dict(type='FPN')\n")
    (tmp_path / "config.py").write_text(OLD_CONFIG)
    config = Config.fromfile(tmp_path / "config.py")
    assert config.neck == {"type": "FPN", "in_channels": [128, 512]}
    assert config.preprocessor["mean"] == pytest.approx([123.675, 116.28, 103.53])  # as mmdetection's configs have it
    assert config.preprocessor["std"] == pytest.approx([58.395, 57.12, 57.375])


# --- preprocessing and weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_the_same_picture_gives_the_same_features(together: bool) -> None:
    ours = backbone().eval()
    preprocessor = ImgDataPreprocessor(**adapter.data_preprocessor("small_resnet18"))
    theirs = preprocessor({"inputs": torch.stack(BGR) if together else BGR})["inputs"]
    rgb = ours.body.preprocessing.normalise(torch.from_numpy(PICTURES).permute(0, 3, 1, 2))
    for given, expected in zip(ours(theirs), ours(rgb), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Public weights of the name `published`, at an address that is a file, with preprocessing of their own."""
    torch.manual_seed(1)
    state = vertebra.create_backbone("small_resnet18").state_dict()
    torch.save(state, tmp_path / "published.pth")
    record = vertebra.WeightsRecord(
        "torchvision_v1",
        (tmp_path / "published.pth").as_uri(),
        "a test",
        preprocessing=vertebra.Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    )
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    vertebra.register_backbone("published", weights=[record])(vertebra.row("small_resnet18"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return state


def pretrained(checkpoint: object) -> dict[str, Any]:
    return {"type": "Pretrained", "checkpoint": checkpoint}


@pytest.mark.parametrize("checkpoint", ["imagenet", "torchvision_v1", "published.pth"])
def test_weights_are_loaded_by_init_weights_once(
    checkpoint: str, published: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = backbone("published", init_cfg=pretrained(checkpoint))
    assert moved(published, ours.body)
    ours.init_weights()
    assert not moved(published, ours.body)
    nn.init.zeros_(ours.body.conv1.weight)
    ours.init_weights()
    assert moved(published, ours.body) == {"conv1.weight"}


def test_a_models_init_weights_reaches_the_backbone(published: dict[str, Tensor]) -> None:
    model = Classifier({"name": "published", "init_cfg": pretrained("imagenet")})
    model.init_weights()
    assert not moved(published, model.backbone.body)
    without = Classifier({"name": "published", "init_cfg": pretrained("imagenet")})
    without.backbone.init_cfg = None  # as where a checkpoint of the whole model is to be loaded
    before = state_of(without)
    without.init_weights()
    assert not moved(before, without)


def test_preprocessing_follows_the_public_weights_without_a_download(published: dict[str, Tensor]) -> None:
    expected = {"mean": [127.5] * 3, "std": [63.75] * 3, "bgr_to_rgb": True}
    assert adapter.data_preprocessor("published", "imagenet") == expected
    assert not Path(torch.hub.get_dir()).exists()
    assert adapter.data_preprocessor("published")["mean"] != expected["mean"]


def test_weights_from_the_checkpoint_of_a_detector(tmp_path: Path) -> None:
    model = Classifier({"name": "small_resnet18"})
    torch.save({"state_dict": model.state_dict(), "meta": {"epoch": 1}}, tmp_path / "detector.pth")
    ours = backbone(init_cfg=pretrained(tmp_path / "detector.pth"))
    ours.init_weights()
    assert not moved(state_of(model.backbone), ours)


def test_an_address_that_mmengine_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = torchvision.models.resnet18()
    asked = []
    monkeypatch.setattr(
        "mmengine.runner.checkpoint.load_from_http", lambda url, **_: asked.append(url) or classifier.state_dict()
    )
    ours = backbone("resnet18", init_cfg=pretrained("torchvision://resnet18"))
    ours.init_weights()
    assert asked == [torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert torch.equal(ours.body.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)


def test_weights_that_do_not_fit_are_an_error_and_change_nothing(
    published: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del published["layer2.0.conv1.weight"]
    torch.save(published, tmp_path / "half.pth")
    monkeypatch.setattr("mmengine.runner.checkpoint.load_from_http", lambda *_, **__: published)
    for checkpoint, said in (
        (tmp_path / "half.pth", r"half.pth does not fit .*1 keys are missing \(as 'layer2.0.conv1.weight'\)"),
        ("torchvision://resnet18", r"torchvision://resnet18 does not fit .*1 keys are missing"),
        (tmp_path / "none.pth", "no weights at .*none.pth"),
        ("torchvision://resnet5O", "mmengine cannot read torchvision://resnet5O"),
        ("open-mmlab://detectron2/resnet50_caffe", "other input .BGR."),
        ("torchvision_v9", "unknown weights tag of published"),
    ):
        ours = backbone("published", init_cfg=pretrained(checkpoint))
        before = state_of(ours)
        with pytest.raises(vertebra.InputError, match=said):
            ours.init_weights()
        assert not moved(before, ours)


# --- wrong use ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "resnet5O"}, "unknown backbone 'resnet5O'. Did you mean 'resnet50'"),
        ({"out_indices": (0, 4)}, r"out_indices=\(0, 4\); the levels .* 0 \(16@4\), .* 3 \(32@32\)"),
        ({"out_indices": ()}, r"out_indices=\(\)"),
        ({"frozen_stages": 5}, r"frozen_stages=5; it can be -1 \(none\), 0 \(the stem\) and up to 4"),
        ({"frozen_stages": -2}, "frozen_stages=-2"),
        ({"depth": 50, "style": "pytorch"}, "not take depth, style. .*for depth: name='resnet50'.*_delete_=True"),
        ({"pretrained": "torchvision://resnet50"}, r"for pretrained: init_cfg=dict\(type='Pretrained'"),
        (
            {"dilations": (1, 1, 2, 4), "output_stride": 8},
            "for dilations: output_stride=16 or 8, which sets both alone",
        ),
        ({"strides": (1, 2, 1, 1)}, "for strides: output_stride=16 or 8"),
        ({"dcn": {"type": "DCN"}}, "for dcn: nothing, it is not offered"),
        ({"norm_cfg": {"type": "LN"}}, "type can be BN, SyncBN, GN"),
        ({"norm_cfg": {"type": "GN", "num_groups": 8}}, "num_groups of GN 32"),
        ({"norm_cfg": {"type": "BN", "momentum": 0.01}}, "eps and momentum are the backbone's own"),
        ({"init_cfg": {"type": "Kaiming", "layer": "Conv2d"}}, "init_cfg=.*it can be dict"),
        ({"init_cfg": {**pretrained("a.pth"), "prefix": "backbone."}}, "found without a prefix"),
        ({"output_stride": 4}, "output_stride=4; it can be 8, 16, 32"),
    ],
)
def test_wrong_use_is_told_in_mmdetections_words(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(vertebra.InputError, match=said):
        backbone(**wrong)


def test_mmengine_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, adapter.__name__)
    with pytest.raises(
        ImportError, match=r"needs mmengine, which is not installed: pip install 'vertebra\[mmengine\]'"
    ):
        importlib.import_module(adapter.__name__)
