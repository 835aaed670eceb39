"""Configuration: frozen dataclasses are the schema, small YAML files and `--set` overrides fill it in.

Four choices compose: head x backbone x data x schedule. Each but the backbone may name a file under `configs/` or a
file of the user's own; what they set is merged in that order, then a run file's overrides, then the command line's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from ..backbones import InputError
from ..heads import head_row
from .data.sampling import Sampling
from .data.shapes import Shapes
from .data.transforms import Transforms

AXES = ("head", "backbone", "data", "schedule")
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


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

    Linear warm-up from `warmup_factor` over `warmup_steps`, then `multistep` (times `gamma` at each of `milestones`, in
    epochs), `cosine` (to zero at the end) or `poly` (the share of the schedule that is left, to the power `power`).
    """

    epochs: float = 12
    warmup_steps: int = 1000
    warmup_factor: float = 0.001
    decay: str = "multistep"
    milestones: tuple[float, ...] = (8, 11)
    gamma: float = 0.1
    power: float = 0.9


@dataclass(frozen=True)
class Optim:
    """The optimiser, `sgd` (with `momentum`, or `nesterov`'s) or `adamw`; `clip_norm` bounds the gradient's norm."""

    name: str = "sgd"
    batch_size: int = 16
    lr: float = 0.02
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    clip_norm: float | None = None


@dataclass(frozen=True)
class Engine:
    """How the run is carried out. `device` is auto, cpu, cuda, cuda:N or mps; `evaluate_every` counts epochs.

    None for `evaluate_every` evaluates at the end only. `pictures` is the number of validation pictures to draw.
    """

    device: str = "auto"
    workers: int = 2
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 500
    evaluate_every: float | None = None
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
        least = {
            "schedule.epochs": (self.schedule.epochs, 0),
            "optim.batch_size": (self.optim.batch_size, 1),
            "optim.lr": (self.optim.lr, 0),
            "engine.workers": (self.engine.workers, 0),
            "engine.log_every": (self.engine.log_every, 1),
            "engine.checkpoint_every": (self.engine.checkpoint_every, 1),
            "data.held_out": (self.data.held_out, 0),
            "data.margin": (self.data.margin, 0),
            "engine.pictures": (self.engine.pictures, 0),
            "data.empty_ratio": (self.data.empty_ratio or 0, 0),
            "data.channels": (1 if self.data.channels is None else self.data.channels, 1),
            "data.limit": (1 if self.data.limit is None else self.data.limit, 1),
            "transforms.short": (self.transforms.short, 32),
            "transforms.longest": (self.transforms.longest, 32),
        }
        for key, (value, minimum) in least.items():
            if value < minimum:
                raise InputError(f"{key}={value}; it must be at least {minimum}")
        if self.engine.evaluate_every is not None and self.engine.evaluate_every <= 0:
            raise InputError(f"engine.evaluate_every={self.engine.evaluate_every}; it counts epochs, or is null")

    def to_yaml(self) -> str:
        """Return the resolved settings as YAML that `read_config` turns into an equal object."""
        return OmegaConf.to_yaml(OmegaConf.create(asdict(self)))


# --- reading --------------------------------------------------------------------------------------------------------


def read_config(path: Path, overrides: Sequence[str] = (), data: str | None = None) -> Config:
    """Read the resolved settings of a run, with overrides such as `schedule.epochs=24`, or with another data set."""
    settings = _read_yaml(path)
    choices = settings.get("choices")
    if not isinstance(choices, dict) or "head" not in choices:
        raise InputError(f"{path} is not the config.yaml of a run: it names no choices.head")
    if data is not None:
        other = _axis(_find("datasets", data, "data set")).get("data", {})
        settings = {**settings, "data": other, "choices": {**choices, "data": data}}
    return _build(choices["head"], [(str(path), settings), *_parse(overrides)])


def compose(
    run_file: str | None, choices: Mapping[str, str | None], imports: Sequence[str], overrides: Sequence[str]
) -> Config:
    """Compose the settings of a new run.

    run_file: a path, or the name of one under configs/runs; None for none. choices: those given on the command line,
    None where they were not. imports: modules and files of the user's own, recorded in the run.
    """
    layers: list[tuple[str, Mapping[str, Any]]] = []
    run_choices: dict[str, Any] = {}
    if run_file is not None:
        path = _find("runs", run_file, what="run file")
        run_choices = _read_yaml(path)
        layers = [(f"{path}: set: {key}", _nest(key, value)) for key, value in _run_overrides(path, run_choices)]
    chosen = Choices(
        **{name: str(choice) for name in AXES if (choice := choices.get(name) or run_choices.get(name)) is not None},
        imports=(*run_choices.get("import", ()), *imports),
    )
    head_row(chosen.head)  # an unknown head is better named as such than as a missing file
    schedule, data = _find("schedules", chosen.schedule, "schedule"), _find("datasets", chosen.data, "data set")
    axes = [_find("heads", chosen.head, "head"), schedule, data]
    layers = [(str(path), _axis(path)) for path in axes] + layers
    return _build(chosen.head, [*layers, ("the command line", {"choices": asdict(chosen)}), *_parse(overrides)])


def read_data(name: str, root: str | None = None) -> Data:
    """Return the settings of a data set alone, by its name or from a YAML file; `root` stands above the file's."""
    path = _find("datasets", name, "data set")
    layers = [(str(path), {"data": _axis(path).get("data", {})})]
    if root is not None:
        layers.append(("--data-root", {"data": {"root": root}}))
    found: Data = _merge({"data": Data}, layers)["data"]
    return found


def _run_overrides(path: Path, run: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    allowed = [*AXES, "import", "set"]
    for key in run:
        if key not in allowed:
            raise InputError(
                f"{path}: unknown key {key!r}; a run file has {', '.join(allowed)} (settings go under set)"
            )
    overrides = run.get("set") or {}
    if not isinstance(overrides, dict):
        raise InputError(f"{path}: `set` must map keys such as optim.lr to values")
    yield from overrides.items()


def _axis(path: Path) -> dict[str, Any]:
    """Read one axis's file; a relative `data.root` in a file of the user's own is taken from that file's folder."""
    settings = _read_yaml(path)
    data = settings.get("data")
    if isinstance(data, dict) and data.get("root") and not path.is_relative_to(CONFIGS):
        data["root"] = str(path.resolve().parent / data["root"])
    return settings


def _find(axis: str, name: str, what: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"no {what} at {path}")
        return path
    packaged = CONFIGS / axis / f"{name}.yaml"
    if packaged.parent != CONFIGS / axis or not packaged.is_file():
        known = sorted(p.stem for p in (CONFIGS / axis).glob("*.yaml"))
        nearest = get_close_matches(name, known, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise InputError(f"unknown {what} {name!r}.{hint} Known: {', '.join(known)}, or a YAML file of your own.")
    return packaged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        settings = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise InputError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds no settings: a YAML mapping is expected")
    return {str(key): value for key, value in settings.items()}


def _parse(overrides: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key:
            raise InputError(f"--set {override!r}; write KEY=VALUE, as --set optim.lr=0.01")
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
        except (OmegaConfBaseException, YAMLError) as error:
            raise InputError(f"--set {override!r} cannot be read: {_first_line(error)}") from error
        assert isinstance(value, dict)
        yield f"--set {override}", {str(k): v for k, v in value.items()}


def _nest(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return dict(value)


# --- building -------------------------------------------------------------------------------------------------------


def _build(head: str, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Config:
    """Merge the layers, named for their errors, over the schema of a run with that head."""
    defaults: dict[str, Any] = {
        "choices": Choices,
        "backbone": BackboneSettings,
        "head": head_row(head),
        "data": Data,
        "transforms": Transforms,
        "schedule": Schedule,
        "optim": Optim,
        "engine": Engine,
    }
    return Config(**_merge(defaults, layers))


def _merge(schema: Mapping[str, Any], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Merge the layers over sections with their defaults, and return the sections as objects."""
    merged: Any = OmegaConf.create({section: OmegaConf.structured(value) for section, value in schema.items()})
    OmegaConf.set_struct(merged, True)
    for source, settings in layers:
        try:
            merged = OmegaConf.merge(merged, settings)
        except ConfigKeyError as error:
            raise _unknown_key(source, str(error.full_key), merged) from error
        except OmegaConfBaseException as error:
            raise InputError(f"{source}: {error.full_key or ''} {_first_line(error)}".replace(":  ", ": ")) from error
    try:
        return {key: OmegaConf.to_object(merged[key]) for key in schema}
    except OmegaConfBaseException as error:
        raise InputError(f"{error.full_key or 'the configuration'}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _unknown_key(source: str, key: str, merged: Any) -> InputError:
    """Name the nearest key: one of its section, or one of the same name in another section."""
    known = list(_keys(OmegaConf.to_container(merged)))
    section, _, name = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
    nearest = [siblings[n] for n in get_close_matches(name, siblings, n=1)]
    nearest += [k for k in known if k.rpartition(".")[2] == name]
    if nearest:
        return InputError(f"{source}: unknown key {key!r}. Did you mean {nearest[0]!r}?")
    where = f"In {section}" if section else "Sections"
    return InputError(f"{source}: unknown key {key!r}. {where}: {', '.join(siblings)}.")


def _keys(settings: Any, prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
