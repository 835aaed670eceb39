"""Public ImageNet weights: what torchvision and timm publish for our names, and how a file is fetched and kept."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch.hub
from torch import Tensor

from .contract import Preprocessing
from .errors import InputError, unknown
from .tensor_files import read_state

HUB = "hf-hub:"
TIMM = "timm/"


@dataclass(frozen=True)
class WeightsRecord:
    """One published set of weights: where it lies, who made it, what it expects and how well it does."""

    tag: str
    url: str  # "https://…/x.pth", or "hf-hub:owner/name" with "@revision" if one is meant
    source: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    input_size: int = 224  # the side in pixels at which top1 was measured
    top1: float | None = None  # ImageNet-1k validation, per cent
    licence: str = "unknown"
    sha256: str | None = None  # the digest, or as much of its beginning as is published
    eps: float | None = None  # of the backbone's norms; None is what the network is built with

    def fetch(self) -> dict[str, Tensor]:
        """Return the tensors, from the cache of torch.hub or of huggingface_hub where they are in it.

        Whatever goes wrong is an InputError that names the url, and no damaged file stays in the cache. Reading never
        runs code that the file brings.
        """
        try:
            path = _from_hub(self) if self.url.startswith(HUB) else _from_web(self)
        except Exception as error:  # urllib, http.client, torch and huggingface_hub share no type
            raise self._failure(str(error) or type(error).__name__) from error
        try:
            return _state_dict(path)
        except InputError as error:
            _discard(path)
            raise self._failure(str(error).replace(str(path), "the file")) from error

    def _failure(self, reason: str) -> InputError:
        line = " ".join(reason.split())[:300].rstrip(".")
        return InputError(
            f"{self.url} cannot be fetched: {line}; download it elsewhere and give the file as the weights "
            "(`--weights FILE`)"
        )


def public_records(name: str) -> tuple[WeightsRecord, ...]:
    """Return the public weights for a backbone, best ImageNet-1k top-1 first and those without a figure last.

    `timm/MODEL` gives all that timm has for its model, timm's own default first; `timm/MODEL.TAG` that one alone. A
    name that neither library has, or has for another network, gives ().
    """
    if name.startswith(TIMM):
        return _of_timm(name.removeprefix(TIMM))
    if name not in TIMM_TOP1:
        return ()
    first = _of_torchvision(name)
    # timm publishes torchvision's files once more, under tags that begin with tv.
    others = [record for record in _of_timm(name) if not (first and record.tag.startswith("timm_tv"))]
    return tuple(sorted((*first, *others), key=lambda record: -(record.top1 or 0)))


def find_record(name: str, tag: str, records: Sequence[WeightsRecord]) -> WeightsRecord:
    """Return the record with this tag; the tag `imagenet` is the first that was trained on ImageNet-1k alone."""
    if not records:
        raise InputError(
            f"no public weights for {name!r}; train from scratch, or give a file as the weights (`--weights FILE`)"
        )
    tags = [record.tag for record in records]
    if tag in tags:
        return records[tags.index(tag)]
    if tag != "imagenet":
        raise unknown(f"weights tag of {name}", tag, ["imagenet", *tags])
    for record in records:
        if trained_on_imagenet1k_alone(record.tag):
            return record
    raise InputError(
        f"no public weights for {name!r} were trained on ImageNet-1k alone; choose a tag: {', '.join(tags)}"
    )


# Words of tags that tell of other images: fine-tuned from something, noisy student on JFT, Facebook's semi- and weakly
# supervised sets, Baidu's distillation on ImageNet-22k, Instagram's hashtags, and the larger ImageNets by name.
_MORE_DATA = frozenset({"ft", "ns", "jft", "ssl", "swsl", "wsl", "ssld", "swag", "in12k", "in21k", "in22k"})


def trained_on_imagenet1k_alone(tag: str) -> bool:
    """Say whether a tag promises that no image from outside ImageNet-1k took part.

    More images bring a better figure, an unfair comparison and often a licence that forbids commercial use. That is
    for the user to decide, by naming the tag; `imagenet` never decides it silently.
    """
    promises = re.search(r"^torchvision_v\d+$|_in1k(_\d+)?$", tag) is not None
    return promises and _MORE_DATA.isdisjoint(tag.split("_"))


def _of_torchvision(name: str) -> tuple[WeightsRecord, ...]:
    from torchvision import models

    if name not in models.list_models():
        return ()
    records = []
    for weights in models.get_model_weights(name):
        version = re.fullmatch(r"IMAGENET1K_(V\d+)", weights.name)
        if not version:  # as vgg16's IMAGENET1K_FEATURES, which is no whole classifier
            continue
        transforms = weights.transforms()
        records.append(
            WeightsRecord(
                tag=f"torchvision_{version[1].lower()}",
                url=weights.url,
                source="torchvision",
                preprocessing=Preprocessing(tuple(transforms.mean), tuple(transforms.std)),
                input_size=transforms.crop_size[0],
                top1=weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
                licence="BSD-3-Clause",
                sha256=_published_sha256(weights.url),
            )
        )
    return tuple(records)


def _of_timm(model: str) -> tuple[WeightsRecord, ...]:
    """Return timm's records for MODEL or MODEL.TAG, in timm's order, which begins with its default."""
    from timm.models import get_arch_pretrained_cfgs

    network, _, wanted = model.partition(".")
    figures: Mapping[str, tuple[float | None, int]] = TIMM_TOP1.get(network, {})
    records = []
    for config in get_arch_pretrained_cfgs(network).values():
        tag = config.tag or "default"
        url = f"{HUB}{config.hf_hub_id}" if config.hf_hub_id else config.url
        if not url or not isinstance(url, str) or wanted not in ("", tag):
            continue
        top1, size = figures.get(tag, (None, (config.test_input_size or config.input_size)[-1]))
        records.append(
            WeightsRecord(
                tag=f"timm_{tag}",
                url=url,
                source="timm",
                preprocessing=Preprocessing(tuple(config.mean), tuple(config.std)),
                input_size=size,
                top1=top1,
                licence=config.license or "unknown",
                sha256=_published_sha256(url),
            )
        )
    return tuple(records)


def _published_sha256(url: str) -> str | None:
    """Return the beginning of the digest that torch's convention puts in a file's name: `resnet50-11ad3fa6.pth`."""
    found = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return found[1] if found else None


def _from_web(record: WeightsRecord) -> Path:
    # The name in the cache tells files apart even where two publishers both say `model.pth`.
    own = record.sha256 or hashlib.sha256(record.url.encode()).hexdigest()[:16]
    name = PurePosixPath(urlparse(record.url).path).name
    path = Path(torch.hub.get_dir(), "checkpoints", name if own in name else f"{own}-{name}")
    if path.is_file() and not intact(path, record):
        path.unlink()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Writes beside the path, and moves the file there once its digest is right.
        torch.hub.download_url_to_file(record.url, str(path), record.sha256, progress=sys.stderr.isatty())
    return path


def _from_hub(record: WeightsRecord) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = record.url.removeprefix(HUB).partition("@")
    revision = revision or "main"
    # The two names are timm's, in its order. The cache is asked first, as torch.hub does: without a network,
    # huggingface_hub would look there too, but only after it has tried to connect for a while.
    for name in ("model.safetensors", "pytorch_model.bin"):
        cached = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            if intact(Path(cached), record):
                return Path(cached)
            _discard(Path(cached))
    try:
        path = Path(hf_hub_download(repository, "model.safetensors", revision=revision))
    except LocalEntryNotFoundError:  # no connection: trying the other name would only double the wait
        raise
    except EntryNotFoundError:
        path = Path(hf_hub_download(repository, "pytorch_model.bin", revision=revision))
    if not intact(path, record):
        _discard(path)
        raise InputError(f"the file's sha256 does not begin with {record.sha256}")
    return path


def intact(path: Path, record: WeightsRecord) -> bool:
    """Say whether a file's sha256 begins as the record says; without one there is nothing to compare."""
    if record.sha256 is None:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(record.sha256)


def _discard(path: Path) -> None:
    """Remove a file from a cache; in huggingface_hub's it is a link to the content, and both have to go."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _state_dict(path: Path) -> dict[str, Tensor]:
    content = read_state(path)
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not (isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values())):
        raise InputError("the file holds no state dict, a mapping from names to tensors")
    return dict(content)


# The names under which torchvision or timm has the very network that we build. A name that is not here gets no
# records, for others give the same name to another network: timm's resnet26 has bottlenecks, a CIFAR depth has none.
# For each name: timm's tags with (ImageNet-1k top-1, side in pixels), from results/results-imagenet.csv in timm's
# repository since its package does not carry them; the better row where that lists two sizes. Names without tags have
# torchvision's records alone.
# fmt: off
TIMM_TOP1: Mapping[str, Mapping[str, tuple[float, int]]] = {
    "resnet18": {
        "fb_swsl_ig1b_ft_in1k": (73.286, 224), "a1_in1k": (73.164, 288), "fb_ssl_yfcc100m_ft_in1k": (72.636, 224),
        "a2_in1k": (72.364, 288), "gluon_in1k": (70.844, 224), "a3_in1k": (68.25, 224),
    },
    "resnet34": {
        "ra4_e3600_r224_in1k": (78.972, 288), "a1_in1k": (77.93, 288), "a2_in1k": (77.15, 288),
        "bt_in1k": (76.506, 288), "gluon_in1k": (74.574, 224), "a3_in1k": (72.996, 224),
    },
    "resnet50": {
        "a1_in1k": (81.24, 288), "fb_swsl_ig1b_ft_in1k": (81.146, 224), "d_in1k": (81.012, 288),
        "c1_in1k": (80.928, 288), "c2_in1k": (80.862, 288), "a2_in1k": (80.774, 288), "b1k_in1k": (80.708, 288),
        "a1h_in1k": (80.654, 224), "b2k_in1k": (80.466, 288), "ram_in1k": (79.982, 288), "ra_in1k": (79.864, 288),
        "bt_in1k": (79.652, 288), "fb_ssl_yfcc100m_ft_in1k": (79.252, 224), "am_in1k": (79.004, 224),
        "a3_in1k": (78.052, 224), "gluon_in1k": (77.58, 224),
    },
    "resnet101": {
        "a1h_in1k": (82.796, 288), "a1_in1k": (82.326, 288), "a2_in1k": (82.218, 288), "a3_in1k": (79.836, 224),
        "gluon_in1k": (79.306, 224),
    },
    "resnet152": {
        "a1h_in1k": (83.494, 288), "a1_in1k": (82.742, 288), "a2_in1k": (82.614, 288), "a3_in1k": (80.548, 224),
        "gluon_in1k": (79.712, 224),
    },
    "resnet18d": {"ra4_e3600_r224_in1k": (76.012, 288), "ra2_in1k": (73.79, 288)},
    "resnet34d": {"ra2_in1k": (78.44, 288)},
    "resnet50d": {
        "ra4_e3600_r224_in1k": (81.84, 288), "a1_in1k": (81.466, 288), "ra2_in1k": (81.354, 288),
        "a2_in1k": (81.164, 288), "gluon_in1k": (79.08, 224), "a3_in1k": (78.742, 224),
    },
    "resnet101d": {"ra2_in1k": (83.02, 320), "gluon_in1k": (80.466, 224)},
    "resnet152d": {"ra2_in1k": (83.684, 320), "gluon_in1k": (80.476, 224)},
    "resnet200d": {"ra2_in1k": (83.976, 320)},
    "resnet50c": {"gluon_in1k": (78.016, 224)},
    "resnet101c": {"gluon_in1k": (79.542, 224)},
    "resnet152c": {"gluon_in1k": (79.904, 224)},
    "resnetv2_18": {"ra4_e3600_r224_in1k": (75.364, 288)},
    "resnetv2_34": {"ra4_e3600_r224_in1k": (79.07, 288)},
    "resnetv2_50": {"a1h_in1k": (81.406, 288)},
    "resnetv2_101": {"a1h_in1k": (83.002, 288)},
    "resnext50_32x4d": {
        "fb_swsl_ig1b_ft_in1k": (82.162, 224), "a1h_in1k": (82.016, 288), "a1_in1k": (81.48, 288),
        "a2_in1k": (81.304, 288), "ra_in1k": (80.72, 288), "fb_ssl_yfcc100m_ft_in1k": (80.316, 224),
        "gluon_in1k": (79.354, 224), "a3_in1k": (79.258, 224),
    },
    "resnext101_32x4d": {
        "fb_swsl_ig1b_ft_in1k": (83.268, 224), "fb_ssl_yfcc100m_ft_in1k": (80.936, 224), "gluon_in1k": (80.336, 224),
    },
    "resnext101_32x8d": {
        "fb_swsl_ig1b_ft_in1k": (84.276, 224), "fb_wsl_ig1b_ft_in1k": (82.72, 224),
        "fb_ssl_yfcc100m_ft_in1k": (81.62, 224),
    },
    "resnext101_64x4d": {"c1_in1k": (83.158, 288), "gluon_in1k": (80.64, 224)},
    "wide_resnet50_2": {"racm_in1k": (82.26, 288)},
    "wide_resnet101_2": {},
    "densenet121": {"ra_in1k": (76.486, 288)},
    "densenet161": {},
    "densenet169": {},
    "densenet201": {},
    "vgg16": {},
    "vgg16_bn": {},
    "vgg19": {},
    "vgg19_bn": {},
}
# fmt: on
