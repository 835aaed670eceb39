"""The schema of all settings: frozen dataclasses, of which a run has one of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import OmegaConf

from .data.sampling import Sampling
from .data.shapes import Shapes
from .data.transforms import Transforms
from .limits import check


@dataclass(frozen=True)
class Choices:
    """The four names that a run is made of; `data` and `schedule` may be YAML files of one's own.

    `imports` are the user's own modules and files, which register what the names may mean.
    """

    head: str = "faster_rcnn"
    backbone: str = "resnet50"
    data: str = "shapes"
    schedule: str = "1x"
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class BackboneSettings:
    """Options of the backbone, as `create_backbone` has them."""

    weights: str | None = None
    output_stride: int = 32
    norm: str = "batch"
    frozen_stages: int = 0
    drop_path: float | None = None
    checkpointing: bool = False


@dataclass(frozen=True)
class Source:
    """A file in COCO's instance format with its folder of images."""

    images: str = ""
    annotations: str = ""


@dataclass(frozen=True)
class Split:
    """A folder of images, and what goes with it; relative paths are taken from `data.root`.

    `annotations` is a file in COCO's instance format, `labels` a folder of label PNGs; with neither, `images` has a
    folder for each class. `listed` is a file with the names of the images to take (VOC's `ImageSets`). Of images with
    annotations that are learnt pixel by pixel, those whose objects cover less than `least_area` pixels are left out.
    `joined` are further files in COCO's format, whose images are taken too; categories of one name are one.
    """

    images: str = ""
    annotations: str = ""
    labels: str = ""
    listed: str = ""
    least_area: int = 0
    joined: list[Source] = field(default_factory=list)


@dataclass(frozen=True)
class Merge:
    """A class made of several categories."""

    name: str = ""
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shares:
    """How the images of one file are divided at random: shares of them for val and test, the rest for train."""

    val: float = 0.1
    test: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Labels:
    """What label PNGs mean, and how objects become labels.

    The classes are `names`, or those of a file with a name in each line, `names_file`. A pixel of class i has the value
    `values[i]` (by default i) in an index PNG, the colour `palette[i]` in a colour PNG; `ignore` and `ignore_colours`
    are no class. `format` is a known kind of PNGs instead: voc, cityscapes, coco_stuff or coco_stuffthings; for COCO's
    the names are read from its annotation files, `names_from`. `image_suffix` and `label_suffix` are what the names of
    a pair do not share. Objects in COCO's format are drawn into labels: those of `names`, or of all categories, after a
    class for the background; `overlaps` says what becomes of pixels of several: smaller (they go to the smallest) or
    ignore.
    """

    names: tuple[str, ...] = ()
    names_file: str = ""
    names_from: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    ignore: tuple[int, ...] = (255,)
    ignore_colours: tuple[tuple[int, int, int], ...] = ()
    format: str = ""
    image_suffix: str = ""
    label_suffix: str = ""
    overlaps: str = "smaller"


@dataclass(frozen=True)
class Data:
    """Where the data set is. With `shapes` it is generated, and the rest stays empty; `cifar` is cifar10 or cifar100.

    `limit` keeps only the first images of each split, for a quick look or an overfitting test. `held_out` is how many
    of CIFAR's training images are kept for validation; with 0 the test images are. `margin` widens the crops of objects
    that a classifier learns from, as a share of their sides.

    Of sets in COCO's format: `split` divides the images of `train`, where val and test have no files of their own.
    `classes` are the names of those to learn, by default all; `merge` makes new ones of several. `empty_ratio` bounds
    how many images without objects are trained on, as a multiple of those with.

    Image files are read as 8-bit RGB; with `channels`, the number that they have, as they are stored, with 16 bits too
    (TIFF, PNG, npy).
    """

    root: str | None = None
    train: Split = Split()
    val: Split = Split()
    test: Split = Split()
    split: Shares | None = None
    classes: tuple[str, ...] = ()
    merge: list[Merge] = field(default_factory=list)  # a list, as OmegaConf makes objects of lists only
    empty_ratio: float | None = None
    sampling: Sampling = field(default_factory=Sampling)
    channels: int | None = None
    limit: int | None = None
    labels: Labels = Labels()
    margin: float = 0.1
    shapes: Shapes | None = None
    cifar: str | None = None
    held_out: int = 5000


@dataclass(frozen=True)
class Schedule:
    """How long to train, and the learning rate over time as a factor of `optim.lr`.

    The length is `epochs`, or `steps` where they are given; then `milestones` are steps too. Linear warm-up from
    `warmup_factor` over `warmup_steps`, then `multistep` (times `gamma` at each of `milestones`), `cosine` or `poly`
    (the share of the schedule that is left, to the power `power`). The decay ends at `floor`.
    """

    epochs: float = 12
    steps: int | None = None
    warmup_steps: int = 1000
    warmup_factor: float = 0.001
    decay: str = "multistep"
    milestones: tuple[float, ...] = (8, 11)
    gamma: float = 0.1
    power: float = 0.9
    floor: float = 0.0


@dataclass(frozen=True)
class Optim:
    """The optimiser, `sgd` (with `momentum`, or `nesterov`'s) or `adamw` (with `betas`).

    `batch_size` counts the images of a step, on all devices; each works through its share in `accumulation` parts.
    `lr` is meant for that many; the schedules under configs/ reckon it from `batch_size`. `clip_norm` bounds the
    gradient's norm. `backbone_lr` is a factor of the rate for the backbone. `ema` is the decay of a moving average of
    the weights, as 0.9998.
    """

    name: str = "sgd"
    batch_size: int = 16
    accumulation: int = 1
    lr: float = 0.02
    backbone_lr: float = 1.0
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    clip_norm: float | None = None
    ema: float | None = None


@dataclass(frozen=True)
class Engine:
    """How the run is carried out. `device` is auto, cpu, cuda, cuda:N or mps.

    precision: bfloat16, float16, tf32 or float32; `auto` is the fastest of the first two that the GPU has, and float32
    on a CPU. compile: whether the trunk is compiled. fast_convolutions: on a CPU, whether convolutions are computed as
    matrix products, with gradients equal to torch's but for rounding. checkpoint_every: in steps; the `keep` newest
    checkpoints stay, the best by `best` (a metric as bbox/AP50; None takes the first that is measured), and those at
    `milestones`, in epochs. evaluate_every: in epochs; None evaluates at the end only. loss_images: how many held-out
    images the loss is measured on, too. precise_norms: how many images batch norms take their statistics from before an
    evaluation; 0 leaves the running ones. skip_limit: how many steps in a run may be skipped for a loss that is not
    finite. pictures: how many validation pictures are drawn.
    """

    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    fast_convolutions: bool = True
    workers: int = 2
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 500
    keep: int = 2
    best: str | None = None
    milestones: tuple[float, ...] = ()
    evaluate_every: float | None = None
    loss_images: int = 200
    precise_norms: int = 0
    skip_limit: int = 10
    pictures: int = 16


@dataclass(frozen=True)
class Config:
    """All settings of a run. `head` is the row of the chosen head."""

    choices: Choices
    backbone: BackboneSettings
    head: Any
    data: Data
    transforms: Transforms
    schedule: Schedule
    optim: Optim
    engine: Engine

    def __post_init__(self) -> None:
        check(self)

    def to_yaml(self) -> str:
        """Return the resolved settings as YAML that `read_config` turns into an equal object."""
        return OmegaConf.to_yaml(OmegaConf.create(asdict(self)))
