"""segmentation_models.pytorch: encoders that keep its contract, trained, saved and loaded as its users do."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

pytest.importorskip(
    "segmentation_models_pytorch",
    reason="segmentation_models_pytorch is not installed: pip install 'vertebra[smp]'",
)

import segmentation_models_pytorch as smp

import vertebra
from vertebra.backbones import Backbone, FeatureInfo, Preprocessing, WeightsRecord, registry
from vertebra.backbones.adapters import smp as adapter

WIDE = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ALL_ARCHITECTURES = sorted(set(smp.MODEL_ARCHITECTURES_MAPPING) - {"dpt"})  # that one takes transformers of timm alone

# The networks for CIFAR halve an image twice, the others five times.
DEPTHS = {"small_resnet20": 2, "small_wrn16_8": 2, "highway19_bn": 2}
# What the first level is: of the image's own size, so that it stands in its place; or a quarter of it; else a half.
WHOLE = {*DEPTHS, "small_vgg16_bn"}
QUARTER = {"small_own"}  # which cannot be dilated either


def depth_of(family: str) -> int:
    return DEPTHS.get(family, 5)


def unet(family: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    depth = depth_of(family)
    settings = {"encoder_weights": None, "encoder_depth": depth, "decoder_channels": (32, 24, 16, 8, 8)[-depth:]}
    return smp.Unet(f"vertebra-{family}", **{**settings, **options})


def encoder(family: str, **options: object) -> adapter.VertebraEncoder:
    torch.manual_seed(0)
    return smp.encoders.get_encoder(f"vertebra-{family}", **{"depth": depth_of(family), **options})


def bare(family: str, **options: object) -> Backbone:
    """The backbone itself, with every level that it has."""
    return vertebra.create_backbone(family, out_features=lambda all: [level.name for level in all], **options)


def with_image(family: str, images: Tensor, maps: dict[str, Tensor]) -> list[Tensor]:
    before = [] if family in WHOLE else [images]
    if family in QUARTER:
        before.append(images.new_zeros(len(images), 0, *(side // 2 for side in images.shape[2:])))
    return [*before, *maps.values()]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Register a backbone for one test; returns its name in smp."""
    names = []

    def register(name: str, builder: object, **options: object) -> str:
        vertebra.register_backbone(name, **options)(builder)
        names.append(name)
        return f"vertebra-{name}"

    yield register
    for name in names:
        del registry._REGISTRY[name], smp.encoders.encoders[f"vertebra-{name}"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A cache of huggingface_hub, and no network; the function puts a repository's files into it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0" * 40

    def put(repository: str, revision: str, state: dict[str, Tensor], config: dict[str, object]) -> None:
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "config.json").write_text(json.dumps(config))
        save_file(state, snapshot / "model.safetensors")
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / revision).write_text(commit)

    return put


def test_a_model_on_each_family(family: str, images: Tensor, tmp_path: Path) -> None:
    model = unet(family, classes=2)
    reference = bare(family)
    reference.load_state_dict(model.encoder.body.state_dict())
    for mode in (True, False):  # of running statistics, too
        model.train(mode), reference.train(mode)
        assert_same(model.encoder(images), with_image(family, images, reference(images)))

    model.train()
    masks = torch.randint(0, 2, (2, 32, 32))
    loss = smp.losses.DiceLoss("multiclass")(model(images), masks)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad.any() for p in model.encoder.parameters())

    logits = model.predict(images)
    assert logits.shape == (2, 2, 32, 32)
    assert not model.training

    model.encoder.body.preprocessing = WIDE  # as of weights that expect it
    model.save_pretrained(tmp_path / "smp")
    torch.save(model.state_dict(), tmp_path / "model.pth")
    again = unet(family, classes=2)
    again.load_state_dict(torch.load(tmp_path / "model.pth"))
    ours = unet(family, classes=2)
    report = vertebra.load_weights(ours, tmp_path / "model.pth")
    assert report.kept == report.dropped == ()
    for loaded in (smp.from_pretrained(tmp_path / "smp"), again, ours):
        assert torch.equal(loaded.predict(images), logits)
        assert loaded.encoder.body.preprocessing == WIDE


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_every_architecture(architecture: str) -> None:
    model = smp.create_model(architecture, "vertebra-small_resnetv2_50", encoder_weights=None, in_channels=1, classes=3)
    size = 128 if architecture == "pan" else 64  # pan pools its deepest map three times
    logits = model(torch.randn(2, 1, size, size))
    assert logits.shape == (2, 3, size, size)
    logits.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())


def test_the_classification_head_and_the_check_of_shapes(images: Tensor) -> None:
    model = smp.FPN("vertebra-small_vgg16_bn", encoder_weights=None, aux_params={"classes": 5}).eval()
    assert model(images)[1].shape == (2, 5)
    with pytest.raises(RuntimeError, match=r"divisible by 32\. Consider pad your images to shape \(32, 32\)"):
        model(images[..., 1:, 1:])


def test_what_an_encoder_declares_is_real(family: str) -> None:
    least, most = (2 if family in QUARTER else 1), depth_of(family)
    for stride in (32,) if family in QUARTER else (8, 16, 32):
        for depth in range(least, most + 1):
            network = encoder(family, depth=depth, output_stride=stride).eval()
            assert network.output_stride == min(stride, 2**depth)
            for height, width in ((32, 64), (33, 49)):
                with torch.no_grad():
                    features = network(torch.randn(1, 3, height, width))
                strides = [min(stride, 2**i) for i in range(depth + 1)]
                sizes = [(-(-height // s), -(-width // s)) for s in strides]
                assert [tuple(f.shape[1:]) for f in features] == [
                    (c, *s) for c, s in zip(network.out_channels, sizes, strict=True)
                ]
    for depth in (least - 1, most + 1):
        with pytest.raises(
            ValueError, match=rf"encoder_depth={depth}; '{family}' has levels at .*: {least} to {most}$"
        ):
            encoder(family, depth=depth)


def test_what_lies_deeper_is_not_built() -> None:
    names = [name for name, _ in encoder("small_resnet50", depth=3).body.named_children()]
    assert names == ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2"]


# smp's own encoders of the same networks declare the same channels, and take and give the same tensors.
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg16_bn"])
def test_the_networks_that_smp_has_too(name: str, images: Tensor) -> None:
    theirs = smp.encoders.get_encoder(name, weights=None).eval()
    ours = smp.encoders.get_encoder(f"vertebra-{name}").eval()
    ours.load_state_dict(theirs.state_dict())
    assert ours.out_channels == theirs.out_channels
    with torch.no_grad():
        found, expected = ours(images), theirs(images)
    if name == "densenet121":
        expected[-1] = expected[-1].relu()  # smp's last map, unlike the others, comes before the activation
    for ours_map, their_map in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_map, their_map)


@pytest.mark.parametrize("stride", [8, 16])
def test_deeplab_on_a_dilated_backbone(family: str, stride: int, images: Tensor) -> None:
    def deeplab(**options: object) -> nn.Module:
        return smp.DeepLabV3Plus(
            f"vertebra-{family}", encoder_weights=None, encoder_output_stride=stride, classes=2, **options
        ).eval()

    if family in DEPTHS or family in QUARTER:
        told = "encoder_depth=5; .*: 1 to 2" if family in DEPTHS else f"does not take output_stride={stride}"
        with pytest.raises(ValueError, match=told):
            deeplab()
        return
    for depth in (4, 5):
        model = deeplab(encoder_depth=depth)
        names = [level.name for level in bare(family).feature_info][: depth + (family in WHOLE)]
        reference = vertebra.create_backbone(family, output_stride=stride, out_features=tuple(names)).eval()
        reference.load_state_dict(model.encoder.body.state_dict())
        features = with_image(family, images, reference(images))
        logits = model(images)
        assert torch.equal(logits, model.segmentation_head(model.decoder(features)))
        assert logits.shape == (2, 2, 32, 32)

    # Dilated afterwards, and twice, it is the same.
    later = encoder(family).eval()
    later.body.load_state_dict(model.encoder.body.state_dict())
    for _ in range(2):
        later.make_dilated(stride)
        assert_same(later(images), model.encoder(images))
    with pytest.raises(ValueError, match="output_stride=4; it can be 8, 16, 32"):
        later.make_dilated(4)
    assert_same(later(images), model.encoder(images))


# By hand: one channel gets the sum of the three, more repeat them in order, and the sum over channels stays.
@pytest.mark.parametrize(("channels", "of_rgb", "scale"), [(1, None, 1.0), (2, [0, 1], 1.5), (5, [0, 1, 2, 0, 1], 0.6)])
def test_other_channels(family: str, channels: int, of_rgb: list[int] | None, scale: float) -> None:
    network = encoder(family).double().eval()
    before = {key: value.clone() for key, value in network.body.state_dict().items()}
    network.body.preprocessing = WIDE
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3  # as of weights that were trained so
    network.set_in_channels(channels)
    assert {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}
    after = network.body.state_dict()
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert len(changed) == 1
    first = before[changed[0]]
    assert torch.equal(after[changed[0]], first.sum(1, keepdim=True) if of_rgb is None else first[:, of_rgb] * scale)
    assert network.body.preprocessing == Preprocessing((0.5,) * channels, (0.5,) * channels)
    assert not network.body.training
    features = network(torch.randn(1, channels, 32, 32, dtype=torch.float64))
    assert [feature.shape[1] for feature in features] == network.out_channels

    new = encoder(family).double()
    new.body.load_state_dict(before)
    new.set_in_channels(channels, pretrained=False)
    state = new.body.state_dict()
    assert all(torch.equal(state[key], before[key]) for key in before if key not in changed)
    assert not torch.equal(state[changed[0]], after[changed[0]])
    assert new.body.training


def test_weights_from_the_hub(hub: Callable[..., None], register: Callable[..., str]) -> None:
    row = vertebra.row("small_resnetv2_50")
    published = bare("small_resnetv2_50").state_dict()
    published["fc.weight"] = torch.zeros(10, 32)  # a public file is a classifier's
    hub("me/net", "v2", published, {"architecture": "net"})
    hub("me/other", "main", published, {})
    records = [
        WeightsRecord("me_ft_in1k", "hf-hub:me/other", "me", preprocessing=WIDE),  # fine-tuned from more images
        WeightsRecord("me_in1k", "hf-hub:me/net@v2", "me", preprocessing=WIDE),
        WeightsRecord("me_caffe", "hf-hub:me/caffe", "me", preprocessing=Preprocessing((0.1,) * 3, (1.0,) * 3)),
        WeightsRecord("me_web", "https://me.org/x.pth", "me", preprocessing=WIDE),
    ]
    name = register("published", row, weights=records)
    for options in ({}, {"encoder_weights": "me_in1k", "in_channels": 4}, {"encoder_weights": "me_ft_in1k"}):
        model = smp.Unet(name, **options)
        body = model.encoder.body
        assert all(
            torch.equal(body.state_dict()[key], published[key]) for key in body.state_dict() if key != "conv1.weight"
        )
        assert body.preprocessing == WIDE.for_channels(options.get("in_channels", 3))
    dilated = smp.DeepLabV3(name, encoder_depth=3)  # what lies deeper is left over
    assert torch.equal(dilated.encoder.body.conv1.weight, published["conv1.weight"])
    with pytest.raises(KeyError, match=r"Wrong pretrained weights `me_caffe` .*'me_ft_in1k', 'me_in1k', 'imagenet'\]"):
        smp.Unet(name, encoder_weights="me_caffe")

    del published["conv1.weight"]
    hub("me/net", "v2", published, {})
    with pytest.raises(ValueError, match="1 keys are missing"):
        smp.Unet(name)


def test_records_are_read_when_weights_are_asked_for(register: Callable[..., str]) -> None:
    def records() -> list[WeightsRecord]:
        raise RuntimeError("read")

    name = register("lazy", vertebra.row("small_resnet18"), weights=records)
    assert name in smp.encoders.get_encoder_names()
    smp.Unet(name, encoder_weights=None)
    with pytest.raises(RuntimeError, match="read"):
        smp.Unet(name)


# The best by timm's and torchvision's tables that the hub has; smp's own file where it has none of ours.
@pytest.mark.parametrize(
    ("name", "tag", "repository"),
    [
        ("resnet50", "imagenet", "timm/resnet50.a1_in1k"),
        ("resnet50", "timm_ra_in1k", "timm/resnet50.ra_in1k"),
        ("resnet50", "ssl", "smp-hub/resnet50.ssl"),
        ("resnetv2_50", "imagenet", "timm/resnetv2_50.a1h_in1k"),
        ("resnext101_32x8d", "imagenet", "smp-hub/resnext101_32x8d.imagenet"),
        ("vgg16", "imagenet", "smp-hub/vgg16.imagenet"),
    ],
)
def test_what_is_offered(name: str, tag: str, repository: str) -> None:
    settings = smp.encoders.encoders[f"vertebra-{name}"]["pretrained_settings"]
    assert settings[tag]["repo_id"] == repository
    theirs = smp.encoders.encoders.get(name, {"pretrained_settings": {}})["pretrained_settings"]
    if repository.startswith("smp-hub/"):
        assert settings[tag] == theirs[tag]
    assert "torchvision_v1" not in settings  # not on the hub
    assert len(settings) == len(list(settings))


def test_smps_files_for_a_name_that_means_another_network(register: Callable[..., str]) -> None:
    name = register("mobilenet_v2", Gap)
    assert "imagenet" in smp.encoders.encoders["mobilenet_v2"]["pretrained_settings"]
    assert not smp.encoders.encoders[name]["pretrained_settings"]


def test_files_that_expect_other_images_are_left_out() -> None:
    settings = smp.encoders.encoders["vertebra-resnet34"]["pretrained_settings"]
    records = {record.tag: record for record in vertebra.weights_records("resnet34")}
    assert {records[tag].preprocessing for tag in settings if tag != "imagenet"} == {WIDE}
    assert "timm_a1_in1k" in records
    assert "timm_a1_in1k" not in settings
    assert "imagenet" not in smp.encoders.encoders["vertebra-resnet20"]["pretrained_settings"]


def test_preprocessing_of_the_same_picture(hub: Callable[..., None], register: Callable[..., str]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    # smp's own files say at the top what they expect.
    config = {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "input_space": "RGB", "input_range": [0, 1]}
    hub("me/net", "main", bare("small_resnet18").state_dict(), config)
    expected = Preprocessing((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    record = WeightsRecord("me_in1k", "hf-hub:me/net", "me", preprocessing=expected)
    name = register("prepared", vertebra.row("small_resnet18"), weights=[record])
    model = smp.Unet(name).eval()
    theirs = smp.encoders.get_preprocessing_fn(name, "imagenet")(picture)
    ours = adapter.preprocessing(model)(picture)
    assert np.array_equal(ours, theirs)

    bytes_ = torch.from_numpy(picture).permute(2, 0, 1)
    features = model.encoder(torch.from_numpy(ours).permute(2, 0, 1)[None].float())
    reference = bare("small_resnet18").eval()
    reference.load_state_dict(model.encoder.body.state_dict())
    maps = reference(expected.normalise(bytes_)[None])
    for found, wanted in zip(features[1:], maps.values(), strict=True):
        torch.testing.assert_close(found, wanted)

    without = smp.Unet("vertebra-small_resnet18", encoder_weights=None)
    imagenet = smp.encoders.preprocess_input(
        picture, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], input_range=[0, 1]
    )
    assert np.array_equal(adapter.preprocessing(without)(picture), imagenet)
    vertebra.load_weights(
        without,
        {"model": model.encoder.body.state_dict(), "preprocessing": {"mean": config["mean"], "std": config["std"]}},
    )
    assert np.array_equal(adapter.preprocessing(without)(picture), ours)
    with pytest.raises(ValueError, match=r"Unet has no vertebra encoder; use smp\.encoders"):
        adapter.preprocessing(smp.Unet("resnet18", encoder_weights=None))


def train(model: nn.Module, steps: int = 10) -> None:
    """The loop of smp's examples: its loss, its metrics."""
    loss_of = smp.losses.DiceLoss("binary")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        model.train()
        images = torch.randn(2, 3, 32, 32, generator=generator)
        masks = (images.mean(1, keepdim=True) > 0).long()
        logits = model(images)
        loss = loss_of(logits, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        counts = smp.metrics.get_stats(logits.sigmoid(), masks, mode="binary", threshold=0.5)
        assert 0 <= smp.metrics.iou_score(*counts, reduction="micro") <= 1
    model.predict(images)


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}


def test_frozen_stages_do_not_move(family: str) -> None:
    model = unet(family)
    body = model.encoder.body
    model.encoder.freeze(2)
    before = {key: value.clone() for key, value in body.state_dict().items()}
    train(model)
    names = {id(module): name for name, module in body.named_modules()}
    frozen = tuple(f"{names[id(module)]}." for stage in body.stages()[:2] for module in stage)
    changed = moved(before, body)
    assert not [key for key in changed if key.startswith(frozen)]
    assert changed == {key for key in before if not key.startswith(frozen)}

    model.encoder.set_in_channels(1)  # built again, and frozen as before
    model.encoder.set_in_channels(3, pretrained=False)
    kept = [p.requires_grad for p in model.encoder.body.parameters()]
    assert kept == [p.requires_grad for p in body.parameters()]
    assert not all(kept)

    before = {key: value.clone() for key, value in model.encoder.body.state_dict().items()}
    model.freeze_encoder()  # smp's own, for all of it
    train(model, steps=2)
    assert not moved(before, model.encoder.body)
    model.unfreeze_encoder()
    model.encoder.freeze(2)
    assert [p.requires_grad for p in model.encoder.parameters()] == kept


def test_options_of_an_entry() -> None:
    smp.encoders.encoders["frozen"] = {
        **smp.encoders.encoders["vertebra-small_resnet50"],
        "params": {"name": "small_resnet50", "norm": "frozen_batch", "frozen_stages": 1},
    }
    try:
        model = smp.Unet("frozen", encoder_weights=None, in_channels=4)
    finally:
        del smp.encoders.encoders["frozen"]
    assert not model.encoder.body.conv1.weight.requires_grad
    four = torch.randn(2, 4, 32, 32)
    with pytest.raises(ValueError, match="was never given statistics"):  # and other channels are not statistics
        model(four)
    vertebra.load_weights(model, bare("small_resnet50").state_dict())
    assert model.predict(four).shape == (2, 1, 32, 32)


class Gap(Backbone):
    """Somebody's own network that skips stride 4."""

    def __init__(self) -> None:
        super().__init__((FeatureInfo("fine", 4, 2), FeatureInfo("coarse", 4, 8)))

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


def test_a_level_that_is_missing(register: Callable[..., str]) -> None:
    name = register("gap", Gap)
    with pytest.raises(ValueError, match=r"'gap' has levels at strides \[2, 8\]; smp needs one for each halving"):
        smp.encoders.get_encoder(name)


def test_compiled_and_exported(images: Tensor) -> None:
    network = encoder("small_densenet121", depth=2).eval()
    exported = torch.export.export(network, (images,)).module()
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="eager")
    with torch.no_grad():
        assert_same(exported(images), network(images))
        assert_same(compiled(images), network(images))


def test_names() -> None:
    assert {f"vertebra-{name}" for name in vertebra.list_backbones()} <= set(smp.encoders.get_encoder_names())
    with pytest.raises(KeyError, match="Wrong encoder name `vertebra-resnet5O`"):
        smp.Unet("vertebra-resnet5O", encoder_weights=None)


def test_without_smp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("segmentation_models_pytorch", "segmentation_models_pytorch.encoders"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, adapter.__name__)
    with pytest.raises(ImportError, match=r"needs segmentation_models_pytorch, .*: pip install 'vertebra\[smp\]'"):
        importlib.import_module(adapter.__name__)
