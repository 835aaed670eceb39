"""Backbones in mmdetection's detectors and mmsegmentation's segmenters, by their own configs, data sets and runner."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("mmcv.ops", reason="mmcv is not installed with its operators: see docs/mmdetection.md")
pytest.importorskip("mmdet", reason="mmdet is not installed: see docs/mmdetection.md")
pytest.importorskip("mmseg", reason="mmsegmentation is not installed: see docs/mmdetection.md")

import mmdet.models
import mmseg.models
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import DATASETS
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import MODELS as SEGMENTERS
from mmseg.structures import SegDataSample

import vertebra
from vertebra.backbones.adapters import mmdet as adapter
from vertebra.tools.data.shapes import Shapes, write_shapes

CONFIGS = {package: Path(package.__file__).parent / ".mim" / "configs" for package in (mmdet, mmseg)}
CLASSES = ("circle", "square", "triangle", "star")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny set in COCO's format."""
    return write_shapes(Shapes(train=6, val=2, size=96, objects=2), tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    before = DefaultScope.get_current_instance()
    yield
    if before is not None:
        init_default_scope(before.scope_name)


def describe(name: str, output_stride: int = 32) -> vertebra.Backbone:
    with torch.device("meta"):
        return vertebra.create_backbone(name, output_stride=output_stride)


def detector_config(name: str, shapes: Path, kind: str = "faster_rcnn", **options: Any) -> Config:
    """One of mmdetection's own configs with our backbone: narrow, on small images, and for ten iterations."""
    file = {"faster_rcnn": "faster-rcnn_r50_fpn_1x_coco.py", "retinanet": "retinanet_r50_fpn_1x_coco.py"}[kind]
    config = Config.fromfile(CONFIGS[mmdet] / kind / file)
    levels = describe(name).feature_info
    stages = tuple(range(len(levels)))
    config.custom_imports = {"imports": ["vertebra.backbones.adapters.mmdet"]}
    config.model.backbone = {"type": "VertebraBackbone", "name": name, "out_indices": stages, **options}
    config.model.data_preprocessor.update(adapter.data_preprocessor(name))
    config.model.neck.update(in_channels=adapter.channels(name, stages), out_channels=32, num_outs=len(levels) + 1)
    strides = [level.stride for level in levels]
    if kind == "retinanet":
        config.model.neck.start_level = 0
        head = config.model.bbox_head
        head.update(num_classes=4, in_channels=32, feat_channels=32, stacked_convs=1)
        head.anchor_generator.strides = [*strides, 2 * strides[-1]]
    else:
        config.model.rpn_head.update(in_channels=32, feat_channels=32)
        config.model.rpn_head.anchor_generator.strides = [*strides, 2 * strides[-1]]
        config.model.roi_head.bbox_roi_extractor.update(out_channels=32, featmap_strides=strides)
        config.model.roi_head.bbox_head.update(in_channels=32, fc_out_channels=32, num_classes=4)
        config.model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
        config.model.test_cfg.rpn.update(nms_pre=100, max_per_img=20)
        config.model.test_cfg.rcnn.score_thr = 0.0  # after ten steps no detection may have more
    for part, split in ((config.train_dataloader, "train"), (config.test_dataloader, "val")):
        part.update(batch_size=2, num_workers=0, persistent_workers=False)
        part.dataset.update(
            data_root=f"{shapes}/",
            ann_file=f"annotations/{split}.json",
            data_prefix={"img": split},
            metainfo={"classes": CLASSES},
        )
        for step in part.dataset.pipeline:
            if step["type"] == "Resize":
                step["scale"] = (96, 96)
    config.train_dataloader.sampler = {"type": "InfiniteSampler"}
    config.train_cfg = {"by_epoch": False, "max_iters": 10}
    config.default_hooks.checkpoint = {"type": "CheckpointHook", "interval": 10, "by_epoch": False}
    config.param_scheduler = None
    config.optim_wrapper.optimizer.lr = 0.02 * 2 / 16
    config.test_evaluator = {"type": "CocoMetric", "ann_file": f"{shapes}/annotations/val.json", "metric": "bbox"}
    for key in ("val_dataloader", "val_evaluator", "val_cfg"):
        config[key] = None
    config.log_level = "ERROR"
    return config


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {key for key, value in state_of(module).items() if not torch.equal(value, before[key])}


def samples(config: Config, split: str = "train_dataloader", count: int = 2) -> Any:
    init_default_scope("mmdet")
    dataset = DATASETS.build(config[split].dataset)
    return pseudo_collate([dataset[i] for i in range(count)])


def add_up(losses: dict[str, Any]) -> Tensor:
    parts = [
        loss
        for key, found in losses.items()
        if "loss" in key
        for loss in ([found] if torch.is_tensor(found) else found)
    ]
    return torch.stack(parts).sum()


def assert_every_gradient(model: nn.Module) -> None:
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


# --- mmdetection ----------------------------------------------------------------------------------------------------


def step_and_predict(config: Config) -> nn.Module:
    data = samples(config)
    model = DETECTORS.build(config.model)
    model.train()
    add_up(model(**model.data_preprocessor(data, training=True), mode="loss")).backward()
    assert_every_gradient(model)
    model.eval()
    with torch.no_grad():
        found = model.test_step(samples(config, "test_dataloader"))
    assert [len(sample.pred_instances.bboxes) >= 0 for sample in found] == [True, True]
    return model


def test_faster_rcnn_learns_predicts_and_keeps_its_checkpoint(family: str, shapes: Path, tmp_path: Path) -> None:
    config = detector_config(family, shapes)
    model = step_and_predict(config)
    data = model.data_preprocessor(samples(config))
    bare = vertebra.create_backbone(family).eval()
    bare.load_state_dict(model.backbone.body.state_dict())
    for given, expected in zip(model.backbone(data["inputs"]), bare(data["inputs"]).values(), strict=True):
        assert torch.equal(given, expected)

    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": CLASSES}}}, tmp_path / "a.pth")
    config.model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "imagenet"}  # which is not to be asked for
    again = init_detector(config, str(tmp_path / "a.pth"), device="cpu", palette="coco")
    assert not moved(state_of(model), again)
    picture = data["data_samples"][0].img_path
    assert inference_detector(again, picture).pred_instances.scores.isfinite().all()


def test_retinanet(shapes: Path) -> None:
    step_and_predict(detector_config("small_resnet50", shapes, "retinanet"))


def test_frozen_stages_do_not_move_in_mmdetections_runner(
    family: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # mmengine 0.10.7 cannot read its own without it
    config = detector_config(family, shapes, frozen_stages=1)
    config.work_dir = str(tmp_path)
    config.experiment_name = tmp_path.name
    runner = Runner.from_cfg(config)
    body = runner.model.backbone.body
    there = [module for stage in body.stages()[:2] for module in stage]
    frozen = tuple(f"{name}." for name, module in body.named_modules() if any(module is one for one in there))
    before = state_of(body)
    runner.train()
    assert moved(before, body) == {key for key in before if not key.startswith(frozen)}
    assert all(value.isfinite().all() for value in state_of(runner.model).values())
    assert 0 <= runner.test()["coco/bbox_mAP"] <= 1

    config.experiment_name += "_again"
    again = Runner.from_cfg(config)
    again.load_checkpoint(str(tmp_path / "iter_10.pth"), strict=True)
    assert not moved(state_of(runner.model), again.model)


def test_norms_in_evaluation_mode_in_mmdetections_runner(shapes: Path, tmp_path: Path) -> None:
    config = detector_config("small_resnet50", shapes, frozen_stages=1, norm_eval=True)
    config.work_dir = str(tmp_path)
    config.experiment_name = tmp_path.name
    runner = Runner.from_cfg(config)
    before = state_of(runner.model.backbone)
    runner.train()
    changed = moved(before, runner.model.backbone)
    assert changed
    assert not any("running_" in key for key in changed)


def test_mmdetections_preprocessing(shapes: Path) -> None:
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    config = detector_config("small_resnet18", shapes)
    model = DETECTORS.build(config.model).eval()
    data = samples(config, "test_dataloader", count=1)
    picture = pil_to_tensor(Image.open(data["data_samples"][0].img_path).convert("RGB"))
    ours = model.backbone.body.preprocessing.normalise(picture)[None]
    theirs = model.data_preprocessor(data)["inputs"]
    for given, expected in zip(model.backbone(theirs), model.backbone(ours), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_a_base_config_whose_backbone_stays(shapes: Path) -> None:
    init_default_scope("mmdet")
    config = detector_config("small_resnet18", shapes)
    inherited = Config.fromfile(CONFIGS[mmdet] / "faster_rcnn" / "faster-rcnn_r50_fpn_1x_coco.py").model
    inherited.backbone.update(type="VertebraBackbone", name="small_resnet18")
    with pytest.raises(vertebra.InputError, match=r"does not take depth, num_stages, .*style.*_delete_=True"):
        DETECTORS.build(inherited)
    assert DETECTORS.build(config.model).backbone.out_channels == config.model.neck.in_channels


# --- mmsegmentation -------------------------------------------------------------------------------------------------


def plain_norms(part: Any) -> None:
    """SyncBN of mmsegmentation's configs trains on GPUs alone."""
    if isinstance(part, dict):
        if "norm_cfg" in part:
            part["norm_cfg"] = {"type": "BN"}
        for inner in part.values():
            plain_norms(inner)
    elif isinstance(part, list):
        for inner in part:
            plain_norms(inner)


def segmenter_config(name: str, file: str, output_stride: int = 32, stages: tuple[int, ...] = (0, 1, 2, 3)) -> Any:
    model = Config.fromfile(CONFIGS[mmseg] / "_base_" / "models" / file).model
    plain_norms(model)
    channels = adapter.channels(name, stages)
    model.pretrained = None
    model.backbone = {
        "type": "VertebraBackbone", "name": name, "out_indices": stages, "output_stride": output_stride,
        "norm_cfg": {"type": "BN", "requires_grad": True}, "norm_eval": False,
    }  # fmt: skip
    model.data_preprocessor.update(**adapter.data_preprocessor(name), size=(96, 96))
    model.decode_head.update(in_channels=channels[-1], in_index=len(stages) - 1, channels=16, num_classes=4)
    model.auxiliary_head.update(in_channels=channels[-2], in_index=len(stages) - 2, channels=16, num_classes=4)
    if "c1_in_channels" in model.decode_head:
        model.decode_head.update(c1_in_channels=channels[0], c1_channels=8, dilations=(1, 2, 4, 6))
    return model


def segment(config: Any) -> nn.Module:
    init_default_scope("mmseg")
    model = SEGMENTERS.build(config)
    model.init_weights()
    pictures = [torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8) for _ in range(2)]
    labels = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 4, (1, 96, 96)))) for _ in range(2)]
    for label in labels:
        label.set_metainfo({"img_shape": (96, 96), "ori_shape": (96, 96), "pad_shape": (96, 96)})
    data = {"inputs": pictures, "data_samples": labels}
    model.train()
    add_up(model(**model.data_preprocessor(data, training=True), mode="loss")).backward()
    assert_every_gradient(model)
    model.eval()
    found = model.test_step(data)
    assert [tuple(sample.pred_sem_seg.data.shape) for sample in found] == [(1, 96, 96)] * 2
    return model


def test_fcn_learns_predicts_and_keeps_its_weights(family: str) -> None:
    config = segmenter_config(family, "fcn_r50-d8.py", stages=tuple(range(len(describe(family).feature_info))))
    model = segment(config)
    again = SEGMENTERS.build(config)
    again.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 96, 96)
    assert torch.equal(again.eval()(images), model(images))
    bare = vertebra.create_backbone(family).eval()
    bare.load_state_dict(model.backbone.body.state_dict())
    for given, expected in zip(model.backbone(images), bare(images).values(), strict=True):
        assert torch.equal(given, expected)


def test_frozen_stages_do_not_move_in_mmsegmentations_runner(family: str, tmp_path: Path) -> None:
    """On a folder of images and labels, by mmsegmentation's own data set, transforms and loop."""
    for folder, size in (("images", (96, 96, 3)), ("labels", (96, 96))):
        (tmp_path / folder).mkdir()
        for i in range(4):
            pixels = torch.randint(0, 256 if folder == "images" else 4, size, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / folder / f"{i}.png")
    config = segmenter_config(family, "fcn_r50-d8.py", stages=tuple(range(len(describe(family).feature_info))))
    config.backbone.frozen_stages = 1
    runner = Runner.from_cfg(
        Config(
            {
                "model": config,
                "default_scope": "mmseg",
                "work_dir": str(tmp_path / "work"),
                "train_dataloader": {
                    "batch_size": 2,
                    "num_workers": 0,
                    "sampler": {"type": "InfiniteSampler"},
                    "dataset": {
                        "type": "BaseSegDataset",
                        "data_root": str(tmp_path),
                        "data_prefix": {"img_path": "images", "seg_map_path": "labels"},
                        "img_suffix": ".png",
                        "metainfo": {"classes": CLASSES},
                        "pipeline": [
                            {"type": "LoadImageFromFile"},
                            {"type": "LoadAnnotations"},
                            {"type": "RandomFlip", "prob": 0.5},
                            {"type": "PackSegInputs"},
                        ],
                    },
                },
                "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 10},
                "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
                "log_level": "ERROR",
            }
        )
    )
    body = runner.model.backbone.body
    before = state_of(body)
    runner.train()
    names = {module: name for name, module in body.named_modules()}
    frozen, *learning = (
        {key for key in before if key.startswith(tuple(f"{names[module]}." for module in modules))}
        for modules in (sum(body.stages()[:2], ()), *body.stages()[2:])
    )
    found = moved(before, body)
    assert not found & frozen
    for stage in filter(None, learning):  # the last pool of VGG has nothing to learn
        assert any(key.endswith(".weight") for key in found & stage)
        assert {key for key in stage if key.endswith("running_mean")} <= found


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["small_resnet18", "small_resnet50", "small_resnetv2_50", "small_densenet121"])
def test_deeplabv3plus_at_output_strides(name: str, output_stride: int) -> None:
    model = segment(segmenter_config(name, "deeplabv3plus_r50-d8.py", output_stride))
    assert model.backbone(torch.rand(1, 3, 96, 96))[-1].shape[-1] == 96 // output_stride


def test_a_segmenters_pretrained_is_told() -> None:
    config = segmenter_config("small_resnet50", "fcn_r50-d8.py")
    config.pretrained = "open-mmlab://resnet50_v1c"
    init_default_scope("mmseg")
    with pytest.raises(vertebra.InputError, match=r"not take pretrained.*pretrained=None in the model"):
        SEGMENTERS.build(config)
