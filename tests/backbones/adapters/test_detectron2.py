"""Backbones in detectron2, by its own configs, model zoo, trainer, checkpointer, predictor and evaluator."""

import importlib
import sys
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("detectron2", reason="detectron2 is not installed: it is built from source, see docs/detectron2.md")

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

import vertebra
from vertebra.backbones.adapters import detectron2 as adapter
from vertebra.tools.data.shapes import Shapes, write_shapes

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
PANOPTIC = "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"
DILATED = "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml"
IMAGENET_BGR = {"MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675], "MODEL.PIXEL_STD": [57.375, 57.12, 58.395]}

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)  # RGB


def config(name: str, settings: dict[str, Any] | None = None, base: str = FASTER) -> CfgNode:
    """One of detectron2's configs, made small, on a backbone of ours; nothing is said of RPN, anchors and poolers."""
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(base))
    builder = "build_vertebra_retinanet_fpn_backbone" if base == RETINANET else "build_vertebra_fpn_backbone"
    small: dict[str, Any] = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.BACKBONE.NAME": builder,
        "MODEL.VERTEBRA.NAME": name,
        "MODEL.VERTEBRA.NORM": "BN",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.FPN.OUT_CHANNELS": 32,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 50,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "MODEL.ROI_HEADS.NUM_CLASSES": 4,
        "MODEL.RETINANET.NUM_CLASSES": 4,
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
        "TEST.DETECTIONS_PER_IMAGE": 5,
        "INPUT.MIN_SIZE_TRAIN": (64,),
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.MASK_FORMAT": "bitmask",
    } | (settings or {})
    cfg.merge_from_list([part for setting in small.items() for part in setting])
    return cfg


def of_family(family: str) -> dict[str, Any]:
    """What its users have to set: nothing where strides are 4 to 32."""
    powers = [int(log2(info.stride)) for info in vertebra.create_backbone(family).feature_info]
    if powers == [2, 3, 4, 5]:
        return {}
    levels = [*powers, powers[-1] + 1]
    return {
        "MODEL.FPN.IN_FEATURES": [f"res{power}" for power in powers],
        "MODEL.RPN.IN_FEATURES": [f"p{power}" for power in levels],
        "MODEL.ROI_HEADS.IN_FEATURES": [f"p{power}" for power in powers],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[8 * 2**power] for power in levels],
        "INPUT.MIN_SIZE_TRAIN": (32,),  # there are anchors at every pixel
    }


def image(picture: Any = PICTURE) -> Tensor:
    """A picture as detectron2's mapper reads it: BGR, (3, H, W)."""
    return torch.from_numpy(picture[:, :, ::-1].copy()).permute(2, 0, 1)


def inputs() -> list[dict[str, Any]]:
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8, 40, 40], [20, 20, 60, 60]]))
    instances.gt_classes = torch.tensor([0, 2])
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:40, 8:24] = masks[1, 20:60, 30:50] = True
    instances.gt_masks = BitMasks(masks)
    labels = torch.randint(0, 3, (64, 64), generator=torch.Generator().manual_seed(0))
    return [{"image": image(PICTURE), "instances": instances, "sem_seg": labels} for _ in range(2)]


def detections(model: nn.Module) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        found = model.eval()([{"image": image()}])[0]["instances"]
    return found.pred_boxes.tensor, found.scores


def gradients_after_a_step(model: nn.Module) -> dict[str, Tensor | None]:
    with EventStorage():  # which its models write to in training
        losses = model.train()(inputs())
    sum(losses.values()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def bottom_up(model: nn.Module) -> adapter.VertebraBackbone:
    found: adapter.VertebraBackbone = model.get_submodule("backbone.bottom_up")
    return found


# --- whole models ----------------------------------------------------------------------------------------------------


def test_a_training_step_reaches_every_parameter(family: str) -> None:
    # Unlike with an evaluation, the images of a batch share statistics: two images, and no map smaller than 2x2.
    gradients = gradients_after_a_step(build_model(config(family, of_family(family), MASK)))
    assert all(grad is not None and grad.isfinite().all() for grad in gradients.values())
    assert any(name.startswith("backbone.bottom_up.body") for name in gradients)


def test_evaluation_and_its_checkpoint(family: str, tmp_path: Path) -> None:
    cfg = config(family, of_family(family))
    torch.manual_seed(0)
    model = build_model(cfg)
    boxes, scores = detections(model)
    assert len(boxes) == 5
    DetectionCheckpointer(model, str(tmp_path)).save("saved")
    torch.manual_seed(1)
    other = build_model(cfg)
    assert not torch.equal(detections(other)[1], scores)
    DetectionCheckpointer(other).load(str(tmp_path / "saved.pth"))
    assert torch.equal(detections(other)[0], boxes)
    assert torch.equal(detections(other)[1], scores)


def test_features_equal_the_bare_backbones(family: str) -> None:
    model = build_model(config(family, of_family(family) | IMAGENET_BGR)).eval()
    bare = vertebra.create_backbone(family).eval()
    bare.load_state_dict(bottom_up(model).body.state_dict())
    images = torch.randn(1, 3, 75, 66)
    expected = list(bare(images.flip(1)).values())
    features = bottom_up(model)(images)
    assert all(torch.equal(x, y) for x, y in zip(features.values(), expected, strict=True))
    shapes = bottom_up(model).output_shape()
    assert [(shapes[name].channels, shapes[name].stride) for name in features] == [
        (info.channels, info.stride) for info in bare.feature_info
    ]


@pytest.mark.parametrize("base", [RETINANET, PANOPTIC])
@pytest.mark.parametrize("name", ["small_resnet50", "small_vgg16_bn"])
def test_other_models_of_the_zoo(base: str, name: str) -> None:
    model = build_model(config(name, {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3}, base))
    gradients = gradients_after_a_step(model)
    assert all(grad is not None and grad.isfinite().all() for grad in gradients.values())
    assert len(detections(model)[0])


def test_maps_without_a_pyramid_dilated() -> None:
    settings = {
        "MODEL.BACKBONE.NAME": "build_vertebra_backbone",
        "MODEL.RESNETS.RES5_DILATION": 1,
        "MODEL.VERTEBRA.OUTPUT_STRIDE": 16,
    }
    model = build_model(config("small_resnet50", settings, DILATED))
    assert {name: shape.stride for name, shape in model.backbone.output_shape().items()} == {"res5": 16}
    assert all(grad is not None for grad in gradients_after_a_step(model).values())


@pytest.mark.parametrize(
    ("name", "output_stride", "strides"),
    [
        ("resnet18", 32, {"res1": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}),
        ("resnet18", 8, {"res1": 2, "res2": 4, "res3": 8, "res4": 8, "res5": 8}),
        ("vgg16", 16, {"res0": 1, "res1": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 16}),
        ("highway19", 32, {"res0": 1, "res1": 2, "res2": 4}),
    ],
)
def test_maps_are_numbered_by_stride(name: str, output_stride: int, strides: dict[str, int]) -> None:
    with torch.device("meta"):
        backbone = adapter.VertebraBackbone(name, out_features=list(strides), output_stride=output_stride)
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == strides


def test_maps_by_default(family: str) -> None:
    strides = [shape.stride for shape in adapter.VertebraBackbone(family).output_shape().values()]
    assert strides == [info.stride for info in vertebra.create_backbone(family).feature_info]


def test_a_pyramid_of_fewer_maps_goes_on_from_the_last() -> None:
    settings = {"MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4"], "MODEL.VERTEBRA.OUTPUT_STRIDE": 16}
    backbone = build_backbone(config("small_resnet18", settings))
    features = backbone(torch.zeros(1, 3, 64, 64))
    assert {name: x.shape[-1] for name, x in features.items()} == {"p2": 16, "p3": 8, "p4": 4, "p5": 2}
    assert torch.equal(features["p5"], features["p4"][:, :, ::2, ::2])
    settings["MODEL.BACKBONE.NAME"] = "build_vertebra_retinanet_fpn_backbone"
    features = build_backbone(config("small_resnet18", settings))(torch.zeros(1, 3, 64, 64))
    assert {name: x.shape[-1] for name, x in features.items()} == {"p2": 16, "p3": 8, "p4": 4, "p5": 2, "p6": 1}


# --- its own training loop -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = write_shapes(Shapes(train=6, val=2, size=64), tmp_path_factory.mktemp("data") / "shapes")
    for split in ("train", "val"):
        register_coco_instances(f"shapes_{split}", {}, str(root / "annotations" / f"{split}.json"), str(root / split))
    yield
    for split in ("train", "val"):
        DatasetCatalog.remove(f"shapes_{split}")
        MetadataCatalog.remove(f"shapes_{split}")


def training(name: str, folder: Path, settings: dict[str, Any]) -> CfgNode:
    loop = {
        "DATASETS.TRAIN": ("shapes_train",),
        "DATASETS.TEST": ("shapes_val",),
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 10,
        "SOLVER.STEPS": (),
        "OUTPUT_DIR": str(folder),
    }
    return config(name, loop | settings, MASK)


def test_frozen_stages_stay_in_its_trainer(shapes: None, family: str, tmp_path: Path) -> None:
    def states() -> list[dict[str, Tensor]]:
        stages = ([(i, module.state_dict()) for i, module in enumerate(stage)] for stage in body.stages())
        return [{f"{i}.{key}": value.clone() for i, state in stage for key, value in state.items()} for stage in stages]

    trainer = DefaultTrainer(training(family, tmp_path, of_family(family) | {"MODEL.BACKBONE.FREEZE_AT": 2}))
    body = bottom_up(trainer.model).body
    before = states()
    trainer.train()
    for index, (then, now) in enumerate(zip(before, states(), strict=True)):
        moved = {key for key, value in then.items() if not torch.equal(value, now[key])}
        meant = {key for key, value in then.items() if value.ndim == 4 or "running" in key}
        assert moved == set() if index < 2 else moved >= meant
        norms = [norm for part in body.stages()[index] for norm in part.modules() if isinstance(norm, nn.BatchNorm2d)]
        assert {norm.training for norm in norms} <= {index >= 2}
    assert all(before[:4])  # there was something to hold and something to move


def test_its_trainer_resumes_and_evaluates(shapes: None, tmp_path: Path) -> None:
    cfg = training("small_densenet121", tmp_path, {"MODEL.BACKBONE.FREEZE_AT": 2, "SOLVER.MAX_ITER": 2})
    trainer = DefaultTrainer(cfg)
    trainer.train()
    other = DefaultTrainer(cfg)
    other.resume_or_load(resume=True)
    assert other.start_iter == 2
    states = trainer.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    results = inference_on_dataset(
        other.model,
        build_detection_test_loader(cfg, "shapes_val"),
        COCOEvaluator("shapes_val", output_dir=str(tmp_path / "evaluation")),
    )
    assert results.keys() == {"bbox", "segm"}
    assert 0 <= results["bbox"]["AP"] <= 100


# --- pictures --------------------------------------------------------------------------------------------------------


def compared(model: nn.Module, given: Tensor, rgb: Tensor) -> None:
    """Hold features of what the model's own preprocessing makes of `given` against ours of `rgb`."""
    adapted = bottom_up(model.eval())
    with torch.no_grad():
        features = list(adapted(model.preprocess_image([{"image": given}]).tensor).values())
        expected = list(adapted.body(adapted.body.preprocessing.normalise(rgb)[None]).values())
    for x, y in zip(features, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([103.53, 116.28, 123.675], [1.0, 1.0, 1.0]),
        ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395]),
        ([10.0, 20.0, 30.0], [1.0, 2.0, 3.0]),
    ],
)
def test_features_of_a_picture(channels: str, mean: list[float], std: list[float]) -> None:
    settings = {"INPUT.FORMAT": channels, "MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std}
    rgb = image().flip(0)
    model = build_model(config("small_resnet18", settings))
    compared(model, image() if channels == "BGR" else rgb, rgb)


@pytest.mark.parametrize("count", [1, 5])
def test_other_input_channels(count: int) -> None:
    settings = {
        "INPUT.FORMAT": "L",
        "MODEL.PIXEL_MEAN": [100.0 + i for i in range(count)],
        "MODEL.PIXEL_STD": [2.0] * count,
    }
    model = build_model(config("small_resnet18", settings))
    pixels = torch.randint(0, 256, (count, 64, 64), dtype=torch.uint8)
    compared(model, pixels, pixels)


def test_images_of_16_bits() -> None:
    model = build_model(
        config("small_resnet18", {"MODEL.VERTEBRA.PIXEL_MAX": 65535, "MODEL.PIXEL_MEAN": [30000.0, 31000.0, 32000.0]})
    )
    pixels = torch.randint(0, 65536, (3, 64, 64)).float()
    compared(model, pixels, pixels.flip(0) / 65535)


def test_preprocessing_of_weights_that_are_loaded_later() -> None:
    model = build_model(config("small_resnet18"))
    state = vertebra.create_backbone("small_resnet18").state_dict()
    vertebra.load_weights(model, {"model": state, "preprocessing": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    assert bottom_up(model).body.preprocessing.mean == (0.5, 0.5, 0.5)
    compared(model, image(), image().flip(0))


def test_its_checkpoint_knows_nothing_of_the_conversion() -> None:
    keys = build_model(config("small_resnet18")).state_dict()
    own = vertebra.create_backbone("small_resnet18").state_dict()
    prefix = "backbone.bottom_up."
    assert [key for key in keys if key.startswith(prefix)] == [f"{prefix}body.{key}" for key in own]


# --- weights and norms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "kind"), [("BN", "BatchNorm2d"), ("FrozenBN", "FrozenBatchNorm2d"), ("GN", "GroupNorm")]
)
def test_norms_by_detectron2s_names(norm: str, kind: str) -> None:
    def kinds(settings: dict[str, Any]) -> set[str]:
        body = bottom_up(build_model(config("small_resnet18", settings))).body
        return {type(module).__name__ for module in body.modules() if "Norm" in type(module).__name__}

    assert kinds({"MODEL.VERTEBRA.NORM": norm}) == {kind}
    assert kinds({"MODEL.VERTEBRA.NORM": "", "MODEL.RESNETS.NORM": norm}) == {kind}


def test_options_of_the_node_reach_the_backbone() -> None:
    settings = {"MODEL.VERTEBRA.DROP_PATH": 0.9, "MODEL.VERTEBRA.CHECKPOINTING": True, "MODEL.VERTEBRA.NORM": "GN"}
    backbone = bottom_up(build_model(config("small_resnet50", settings)))
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    assert not torch.equal(backbone(images)["res5"], backbone(images)["res5"])  # blocks are dropped at random
    forwards = []
    backbone.body.layer4.register_forward_hook(lambda *_: forwards.append("stage"))
    backbone.body.layer4[0].conv1.register_forward_hook(lambda *_: forwards.append("convolution"))
    backbone.eval()(images)["res5"].sum().backward()
    assert forwards == ["convolution", "stage", "convolution"]  # the second in the backward pass


def test_networks_without_batch_norms_have_none_to_freeze() -> None:
    """FrozenBN is detectron2's default, and nobody asked for it."""
    for name in ("highway19", "timm/test_vit"):
        build = adapter.VertebraBackbone(name, norm="FrozenBN", out_features=of_family(name)["MODEL.FPN.IN_FEATURES"])
        assert build(torch.zeros(1, 3, 32, 32))


def test_frozen_norms_take_the_weights_of_a_file(tmp_path: Path) -> None:
    """By MODEL.VERTEBRA.WEIGHTS, or by what detectron2 loads itself; with neither they refuse."""
    model = build_model(config("small_resnet18"))
    DetectionCheckpointer(model, str(tmp_path)).save("whole")
    torch.save(bottom_up(model).body.state_dict(), tmp_path / "backbone.pth")
    scores = detections(model)[1]

    whole = config("small_resnet18", {"MODEL.VERTEBRA.NORM": "FrozenBN", "MODEL.WEIGHTS": str(tmp_path / "whole.pth")})
    found = DefaultPredictor(whole)(PICTURE[:, :, ::-1])["instances"]
    torch.testing.assert_close(found.scores, scores)

    settings = {"MODEL.VERTEBRA.NORM": "FrozenBN", "MODEL.VERTEBRA.WEIGHTS": str(tmp_path / "backbone.pth")}
    begun = build_model(config("small_resnet18", settings)).eval()
    images = torch.zeros(1, 3, 64, 64)
    torch.testing.assert_close(bottom_up(begun)(images), bottom_up(model)(images))

    scratch = build_model(config("small_resnet18", {"MODEL.VERTEBRA.NORM": "FrozenBN"}))
    with pytest.raises(
        vertebra.InputError,
        match=r"'FrozenBN' was never given statistics.*MODEL\.VERTEBRA\.WEIGHTS; MODEL\.VERTEBRA\.NORM",
    ):
        detections(scratch)


# --- LazyConfig ------------------------------------------------------------------------------------------------------


def test_a_lazy_config_of_the_zoo_with_another_bottom_up() -> None:
    model = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model
    model.backbone.bottom_up = L(adapter.VertebraBackbone)(
        name="small_densenet121",
        out_features=["res2", "res3", "res4", "res5"],
        pixel_mean="${...pixel_mean}",
        pixel_std="${...pixel_std}",
        input_format="${...input_format}",
    )
    model.backbone.bottom_up.freeze_at = 2  # as detectron2's configs set it
    model.pixel_std = [57.375, 57.12, 58.395]
    model.backbone.out_channels = model.proposal_generator.head.in_channels = 256
    LazyConfig.apply_overrides(model, ["proposal_generator.post_nms_topk=[50,20]"])
    built = instantiate(model)
    assert not bottom_up(built).converts  # the pixel statistics are those that the weights expect, but for BGR
    compared(built, image(), image().flip(0))
    assert not bottom_up(built).body.get_submodule("denseblock1").denselayer1.conv1.weight.requires_grad
    gradients = gradients_after_a_step(built)
    assert all(grad is not None and grad.isfinite().all() for grad in gradients.values())


# --- wrong use -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MODEL.VERTEBRA.NAME": "resnet5O"}, r"'resnet5O'. Did you mean 'resnet50'.*MODEL\.VERTEBRA\.NAME"),
        ({"MODEL.VERTEBRA.NAME": ""}, r"MODEL\.VERTEBRA\.NAME"),
        (
            {"MODEL.VERTEBRA.NAME": "resnet20"},
            r"res0 \(16@1\), res1 \(32@2\), res2 \(64@4\).*MODEL\.FPN\.IN_FEATURES.*MODEL\.RPN\.IN_FEATURES",
        ),
        ({"MODEL.FPN.IN_FEATURES": []}, r"MODEL\.FPN\.IN_FEATURES"),
        ({"MODEL.FPN.IN_FEATURES": ["res2", "res4"]}, r"have strides \[4, 16\]"),
        ({"MODEL.VERTEBRA.OUTPUT_STRIDE": 16}, r"strides \[4, 8, 16, 16\].*MODEL\.VERTEBRA\.OUTPUT_STRIDE=32"),
        ({"MODEL.VERTEBRA.OUTPUT_STRIDE": 4}, r"output_stride=4; .*MODEL\.VERTEBRA\.OUTPUT_STRIDE"),
        (
            {"MODEL.RESNETS.RES5_DILATION": 2, "MODEL.VERTEBRA.OUTPUT_STRIDE": 16},
            r"MODEL\.RESNETS\.RES5_DILATION=2.*set it to 1.*MODEL\.VERTEBRA\.OUTPUT_STRIDE",
        ),
        ({"MODEL.RESNETS.DEPTH": 101}, r"MODEL\.RESNETS\.DEPTH=101.*MODEL\.VERTEBRA\.NAME says which"),
        ({"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True]}, r"DEFORM_ON_PER_STAGE"),
        ({"MODEL.BACKBONE.FREEZE_AT": 6}, r"freeze_at=6.*5 stages.*MODEL\.BACKBONE\.FREEZE_AT"),
        ({"MODEL.VERTEBRA.NORM": "LN"}, r"norm 'LN'.*BN, FrozenBN, GN, SyncBN.*MODEL\.VERTEBRA\.NORM"),
        ({"MODEL.VERTEBRA.WEIGHTS": "absent.pth"}, r"no weights at absent\.pth.*MODEL\.VERTEBRA\.WEIGHTS"),
        ({"INPUT.FORMAT": "YUV-BT.601"}, r"BGR or RGB.*INPUT\.FORMAT"),
        (
            {"MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-50.pkl"},
            r"set MODEL\.WEIGHTS='' and MODEL\.VERTEBRA\.WEIGHTS",
        ),
    ],
)
def test_wrong_use(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        build_model(config("resnet18", settings))


def test_a_config_that_was_made_before_the_import() -> None:
    cfg = config("small_resnet18")
    node = cfg.MODEL.pop("VERTEBRA")
    with pytest.raises(vertebra.InputError, match=r"add_vertebra_config\(cfg\)"):
        build_model(cfg)
    adapter.add_vertebra_config(cfg)
    assert cfg.MODEL.VERTEBRA.keys() == node.keys()
    cfg.MODEL.VERTEBRA.NAME = "small_resnet18"
    adapter.add_vertebra_config(cfg)
    assert cfg.MODEL.VERTEBRA.NAME == "small_resnet18"


def test_detectron2_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.delitem(sys.modules, adapter.__name__)
    with pytest.raises(ImportError, match=r"needs detectron2, which is not installed: pip install .*github\.com"):
        importlib.import_module(adapter.__name__)
