"""Public weights of whole models: the records say what torchvision says, and a name gives torchvision's very model."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import vertebra
from vertebra.heads import ModelRecord, model_names, model_record, records

_RANDOM = torch.Generator().manual_seed(0)
IMAGES = [torch.rand(3, height, width, generator=_RANDOM) for height, width in ((96, 128), (110, 90))]
FASTER, MASK = "torchvision/fasterrcnn_resnet50_fpn", "torchvision/maskrcnn_resnet50_fpn"
CLASS_LAYERS = ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred")
MASK_CLASS_LAYERS = (*CLASS_LAYERS, "roi_heads.mask_predictor.mask_fcn_logits")


# As torchvision's documentation lists them: the file's digest, box AP and mask AP on COCO val2017.
@pytest.mark.parametrize(
    ("name", "head", "norm", "digest", "box_ap", "mask_ap", "eps"),
    [
        ("fasterrcnn_resnet50_fpn", "faster_rcnn", "frozen_batch", "258fb6c6", 37.0, None, 0.0),
        ("fasterrcnn_resnet50_fpn_v2", "faster_rcnn_v2", "batch", "dd69338a", 46.7, None, None),
        ("maskrcnn_resnet50_fpn", "mask_rcnn", "frozen_batch", "bf2d0c1e", 37.9, 34.6, 0.0),
        ("maskrcnn_resnet50_fpn_v2", "mask_rcnn_v2", "batch", "73cbd019", 47.4, 41.8, None),
    ],
)
def test_records(
    name: str, head: str, norm: str, digest: str, box_ap: float, mask_ap: float | None, eps: float | None
) -> None:
    record = model_record(f"torchvision/{name}")
    assert (record.head, record.backbone, record.norm, record.weights.eps) == (head, "resnet50", norm, eps)
    metrics = {"box_ap": box_ap, "mask_ap": mask_ap}
    assert record.metrics == {key: value for key, value in metrics.items() if value is not None}
    assert record.num_classes == 91
    assert record.weights.url == f"https://download.pytorch.org/models/{name}_coco-{digest}.pth"
    assert (record.weights.tag, record.weights.sha256) == (f"torchvision/{name}", digest)
    assert record.weights.licence == "BSD-3-Clause"
    # COCO's ids: 80 categories from 1 to 90.
    assert [id for id, _ in record.categories] == list(range(1, 91))
    assert (record.categories[0], record.categories[89]) == ((1, "person"), (90, "toothbrush"))
    unused = [id for id, name in record.categories if name == records.UNUSED]
    assert unused == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


# As torchvision's documentation lists them, on COCO val2017 with the 20 categories of VOC.
@pytest.mark.parametrize(
    ("backbone", "digest", "miou", "pixel_acc"),
    [("resnet50", "cd0a2569", 66.4, 92.4), ("resnet101", "586e9e4e", 67.4, 92.4)],
)
def test_records_of_segmenters(backbone: str, digest: str, miou: float, pixel_acc: float) -> None:
    record = model_record(f"torchvision/deeplabv3_{backbone}")
    assert (record.head, record.backbone, record.norm, record.num_classes) == ("deeplabv3", backbone, "batch", 21)
    assert record.metrics == {"miou": miou, "pixel_acc": pixel_acc}
    assert record.weights.url == f"https://download.pytorch.org/models/deeplabv3_{backbone}_coco-{digest}.pth"
    assert (record.weights.sha256, record.weights.input_size) == (digest, 520)
    # Pascal VOC's classes, which are in the order of the alphabet, after the background.
    assert [id for id, _ in record.categories] == list(range(21))
    names = [name for _, name in record.categories]
    assert names[0] == "__background__"
    assert names[1:] == sorted(names[1:])
    assert (names[1], names[20]) == ("aeroplane", "tvmonitor")


@pytest.mark.parametrize("name", model_names())
def test_every_record_is_of_the_model_that_it_names(name: str) -> None:
    """The same keys and shapes as torchvision's model, which has batch norms as long as nothing is loaded."""
    record = model_record(name)
    with torch.device("meta"):
        options = {"aux_loss": True} if record.num_classes == 21 else {}
        theirs = torchvision.models.get_model(
            name.removeprefix("torchvision/"), weights=None, weights_backbone=None, **options
        )
        ours = vertebra.create_model(
            record.head, backbone=record.backbone, norm=record.norm, num_classes=record.num_classes
        )
    shapes = [
        {k: v.shape for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        for model in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]


def reference_state() -> dict[str, Tensor]:
    """A state dict of torchvision's Mask R-CNN as trained, with statistics whose small variance shows a wrong eps."""
    torch.manual_seed(0)
    trunk = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5
    )
    model = torchvision.models.detection.MaskRCNN(trunk, 91)
    for norm in (module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)):
        nn.init.uniform_(norm.running_var, 1e-4, 2e-4)
        nn.init.uniform_(norm.weight, 0.008, 0.012)
        nn.init.normal_(norm.bias, std=0.1)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    return {key: value.clone() for key, value in model.state_dict().items()}


def reference(name: str, state: dict[str, Tensor], eps: float) -> nn.Module:
    """Torchvision's model with these weights, with eps set as its own builder does."""
    trunk = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5
    )
    build = torchvision.models.detection.MaskRCNN if name == MASK else torchvision.models.detection.FasterRCNN
    model = build(trunk, 91, min_size=96, max_size=128, box_score_thresh=0.0, box_detections_per_img=20)
    model.load_state_dict(old_names(state))
    torchvision.models.detection._utils.overwrite_eps(model, eps)
    return model.eval()


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that the published files have, which were written before torchvision renamed its modules."""
    old = {}
    for key, value in state.items():
        key = re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", key).replace("head.conv.0.0.", "head.conv.")
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", key)
        old[key] = value
    return old


def of(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if name == MASK or ".mask_" not in k}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Tensor]]]:
    """The first two names publish our random weights, by their old names, in torch.hub's cache: nothing is fetched."""
    hub = tmp_path_factory.mktemp("hub")
    (hub / "checkpoints").mkdir()
    state = reference_state()
    states, changed = {}, {}
    for name in (FASTER, MASK):
        states[name] = of(name, state)
        torch.save(old_names(states[name]), hub / "file.pth")
        digest = hashlib.sha256((hub / "file.pth").read_bytes()).hexdigest()[:8]
        file = f"{name.removeprefix('torchvision/')}_coco-{digest}.pth"
        (hub / "file.pth").rename(hub / "checkpoints" / file)
        record = model_record(name)
        weights = replace(record.weights, url=f"http://127.0.0.1:9/{file}", sha256=digest)
        changed[name] = replace(record, weights=weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "_hub_dir", str(hub))
        patch.setattr(records, "model_record", lambda name: changed.get(name) or model_record(name))
        yield states


@pytest.fixture(scope="module")
def model_of(published: object) -> Callable[..., nn.Module]:
    def build(name: str, num_classes: int = 91) -> nn.Module:
        record: ModelRecord = records.model_record(name)
        row = replace(
            vertebra.head_row(record.head), test_size=(96, 128), box_score_thresh=0.0, box_detections_per_img=20
        )
        return vertebra.create_model(row, backbone=record.backbone, norm=record.norm, num_classes=num_classes)

    return build


@pytest.mark.parametrize("name", [FASTER, MASK])
def test_a_name_gives_torchvisions_model(
    published: dict[str, dict[str, Tensor]], model_of: Callable[..., nn.Module], name: str
) -> None:
    model = model_of(name)
    report = vertebra.load_weights(model, name)
    assert (report.dropped, report.kept, report.reset) == ((), (), ())
    assert report.categories == model_record(name).categories
    assert {m.eps for m in model.modules() if isinstance(m, FrozenBatchNorm2d)} == {0.0}
    exact, with_eps = (reference(name, published[name], eps) for eps in (0.0, 1e-5))
    batch = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs, other = (list(m.eval().backbone(batch).values()) for m in (model, exact, with_eps))
        found, expected = model(IMAGES), exact(IMAGES)
    for level, wanted, different in zip(ours, theirs, other, strict=True):
        assert float((level - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
        assert float((different - wanted).abs().max()) > 1e-2 * float(wanted.abs().max())
    for one, wanted in zip(found, expected, strict=True):
        assert len(wanted["boxes"]) == 20
        assert torch.equal(one["labels"], wanted["labels"])
        torch.testing.assert_close(one["boxes"], wanted["boxes"], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(one["scores"], wanted["scores"], rtol=1e-4, atol=1e-5)
        if name == MASK:
            torch.testing.assert_close(one["masks"], wanted["masks"], rtol=1e-4, atol=1e-3)


def test_a_file_under_its_published_name_is_known_again(
    published: object, model_of: Callable[..., nn.Module], tmp_path: Path
) -> None:
    """By name and digest: its norms' eps and its categories are not in the file."""
    record = records.model_record(FASTER)
    file = Path(torch.hub.get_dir(), "checkpoints", Path(record.weights.url).name)
    model = model_of(FASTER)
    assert vertebra.load_weights(model, file).categories == record.categories
    assert model.backbone.body.bn1.eps == 0.0
    (tmp_path / "mine.pth").symlink_to(file)
    model = model_of(FASTER)
    report = vertebra.load_weights(model, tmp_path / "mine.pth")
    assert report.categories is None
    assert (report.dropped, report.kept) == ((), ())
    assert len(report.renamed) == 18  # weight and bias of four lateral, four output, and one convolution of the RPN
    assert model.backbone.body.bn1.eps == 1e-5
    (tmp_path / file.name).write_bytes(b"something else")
    with pytest.raises(vertebra.InputError, match="cannot be read as weights"):
        vertebra.load_weights(model, tmp_path / file.name)


@pytest.mark.parametrize(("name", "layers"), [(FASTER, CLASS_LAYERS), (MASK, MASK_CLASS_LAYERS)])
def test_fine_tuning_on_other_classes(
    published: dict[str, dict[str, Tensor]], model_of: Callable[..., nn.Module], name: str, layers: tuple[str, ...]
) -> None:
    model = model_of(name, num_classes=4)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(vertebra.InputError, match="reset_classes=True loads all the others"):
        vertebra.load_weights(model, name)
    report = vertebra.load_weights(model, name, reset_classes=True)
    keys = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(report.reset) == set(report.dropped) == keys
    assert set(report.reset_layers) == set(layers)
    assert all(layer in str(report) for layer in layers)
    assert (report.kept, report.categories) == ((), None)
    for key, value in model.state_dict().items():
        assert torch.equal(value, fresh[key] if key in keys else published[name][key]), key
    assert model.backbone.body.bn1.eps == 0.0


def test_what_does_not_fit_is_named(published: object) -> None:
    model = vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=91)
    for reset in (False, True):
        with pytest.raises(
            vertebra.InputError,
            match=f"{MASK} does not fit .* head mask_rcnn on the backbone resnet50, with norm='frozen_batch' and 91",
        ):
            vertebra.load_weights(model, MASK, reset_classes=reset)
    with pytest.raises(vertebra.InputError, match=f"unknown weights .* Did you mean '{FASTER}'"):
        vertebra.load_weights(model, "torchvision/faster_rcnn_resnet50_fpn")


# --- segmenters ------------------------------------------------------------------------------------------------------

DEEPLAB = "torchvision/deeplabv3_resnet50"


@pytest.fixture(scope="module")
def deeplab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nn.Module]:
    """Torchvision's DeepLab with random weights, which are published under its name in torch.hub's cache."""
    torch.manual_seed(0)
    model = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    hub = tmp_path_factory.mktemp("hub")
    (hub / "checkpoints").mkdir()
    torch.save(model.state_dict(), hub / "file.pth")
    digest = hashlib.sha256((hub / "file.pth").read_bytes()).hexdigest()[:8]
    (hub / "file.pth").rename(hub / "checkpoints" / f"deeplabv3_resnet50_coco-{digest}.pth")
    record = model_record(DEEPLAB)
    url = f"http://127.0.0.1:9/deeplabv3_resnet50_coco-{digest}.pth"
    changed = replace(record, weights=replace(record.weights, url=url, sha256=digest))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "_hub_dir", str(hub))
        patch.setattr(records, "model_record", lambda name: changed if name == DEEPLAB else model_record(name))
        yield model.eval()


def test_a_name_gives_torchvisions_segmenter(deeplab: nn.Module) -> None:
    row = replace(vertebra.head_row("deeplabv3"), test_size=None)
    model = vertebra.create_model(row, backbone="resnet50", num_classes=21).eval()
    report = vertebra.load_weights(model, DEEPLAB)
    assert (report.dropped, report.kept, report.renamed, report.reset) == ((), (), (), ())
    assert report.categories == model_record(DEEPLAB).categories
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        (found,) = model.logits([image])
        expected = deeplab(model.backbone.preprocessing.normalise(image)[None])["out"][0]
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_a_segmenter_without_auxiliary_head_drops_it(deeplab: nn.Module) -> None:
    row = replace(vertebra.head_row("deeplabv3"), aux_weight=None)
    model = vertebra.create_model(row, backbone="resnet50", num_classes=21)
    report = vertebra.load_weights(model, DEEPLAB)
    assert set(report.dropped) == {key for key in deeplab.state_dict() if key.startswith("aux_classifier.")}
    assert (report.kept, report.categories) == ((), model_record(DEEPLAB).categories)


def test_fine_tuning_a_segmenter_on_other_classes(deeplab: nn.Module) -> None:
    model = vertebra.create_model("deeplabv3", backbone="resnet50", num_classes=12)
    with pytest.raises(vertebra.InputError, match="reset_classes=True loads all the others"):
        vertebra.load_weights(model, DEEPLAB)
    report = vertebra.load_weights(model, DEEPLAB, reset_classes=True)
    assert report.reset_layers == ("classifier.4", "aux_classifier.4")
    assert (report.kept, report.categories) == ((), None)
    other = vertebra.create_model("deeplabv3", backbone="resnet18", num_classes=12)
    with pytest.raises(vertebra.InputError, match=r"head deeplabv3 on the backbone resnet50, .* and 21 classes"):
        vertebra.load_weights(other, DEEPLAB)
