"""Reading settings: small YAML files and `--set` overrides fill in the schema.

Four choices compose: head x backbone x data x schedule. Each but the backbone may name a file under `configs/` or a
file of the user's own; what they set is merged in that order, then a run file's overrides, then the command line's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from ..backbones import InputError
from ..heads import head_row
from .data.transforms import Transforms
from .scaling import register_rules
from .settings import BackboneSettings, Choices, Config, Data, Engine, Optim, Schedule

register_rules()

AXES = ("head", "backbone", "data", "schedule")
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


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


def read_schedule(name: str) -> dict[str, Any]:
    """Return what the file of a schedule sets, as it is written there."""
    return _read_yaml(_find("schedules", name, "schedule"))


def list_schedules() -> list[str]:
    """Return the names of the schedules under configs/."""
    return sorted(path.stem for path in (CONFIGS / "schedules").glob("*.yaml"))


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
    return Config(**_merge(defaults, [(source, _with_one_length(settings)) for source, settings in layers]))


def _with_one_length(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings in which `schedule.epochs` alone undoes steps that were set before: they would stand above it."""
    schedule = settings.get("schedule")
    if not isinstance(schedule, dict) or "epochs" not in schedule or "steps" in schedule:
        return settings
    return {**settings, "schedule": {**schedule, "steps": None}}


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
