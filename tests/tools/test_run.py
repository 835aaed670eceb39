"""Which weights of a run are used: the newest or the best, the moving average or the raw ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vertebra
from vertebra.tools.build import build_model, import_modules, recorded_imports
from vertebra.tools.config import compose
from vertebra.tools.engine.checkpoint import save_checkpoint
from vertebra.tools.run import chosen_checkpoint, open_run, trained_model

Command = Callable[..., Any]
State = dict[str, torch.Tensor]


def times(state: State, factor: float) -> State:
    return {key: value * factor if value.is_floating_point() else value for key, value in state.items()}


def has(model: torch.nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.fixture
def run(workplace: Path, my_backbone: Path) -> tuple[Path, State]:
    """A run and its raw weights; those of its moving average are half of them, those of its best checkpoint 0."""
    imports = recorded_imports([str(my_backbone)])
    choices = {"head": None, "backbone": None, "data": "data.yaml", "schedule": None}
    config = compose("small.yaml", choices, imports, [])
    import_modules(imports)
    folder = Path("run")
    folder.mkdir()
    (folder / "config.yaml").write_text(config.to_yaml())
    raw = build_model(config, 4).state_dict()
    categories = [[1, "circle"], [3, "square"], [4, "triangle"], [7, "star"]]
    content = {
        "preprocessing": {"mean": [0.5] * 3, "std": [0.5] * 3}, "norm_eps": 1e-5, "optimiser": {}, "scaler": {},
        "step": 3, "position": 6, "skipped": 0, "categories": categories, "config": config.to_yaml(),
    }  # fmt: skip
    save_checkpoint(folder / "checkpoint.pt", {**content, "model": raw, "ema": times(raw, 0.5)})
    save_checkpoint(folder / "best.pt", {**content, "model": times(raw, 0), "ema": None})
    return folder, raw


def test_the_average_is_taken_unless_the_raw_weights_are_asked_for(run: tuple[Path, State]) -> None:
    folder, raw = run
    assert has(trained_model(open_run(folder))[0], times(raw, 0.5))
    assert has(trained_model(open_run(folder), raw=True)[0], raw)
    assert has(vertebra.Predictor(folder).model, times(raw, 0.5))
    assert has(vertebra.Predictor(folder, raw=True).model, raw)


def test_fine_tuning_begins_with_the_average_too(run: tuple[Path, State]) -> None:
    folder, raw = run
    model, _ = trained_model(open_run(folder), raw=True)
    vertebra.load_weights(model, folder)
    assert has(model, times(raw, 0.5))


def test_the_best_checkpoint(run: tuple[Path, State]) -> None:
    folder, raw = run
    assert has(vertebra.Predictor(folder, best=True).model, times(raw, 0))
    assert has(vertebra.Predictor(folder, checkpoint=folder / "best.pt").model, times(raw, 0))
    assert chosen_checkpoint(open_run(folder), None, False) == folder / "checkpoint.pt"
    with pytest.raises(vertebra.InputError, match=r"checkpoint=other\.pt and best name two checkpoints; choose one"):
        vertebra.Predictor(folder, checkpoint="other.pt", best=True)
    (folder / "best.pt").unlink()
    with pytest.raises(vertebra.InputError, match=r"no run/best\.pt: it is written when"):
        vertebra.Predictor(folder, best=True)


def test_commands_take_what_they_are_told(cli: Command, run: tuple[Path, State], shapes: Path) -> None:
    folder, _ = run
    found = set()
    for number, (option, suffix) in enumerate({None: "", "--raw": "-raw", "--best": "-best"}.items()):
        options = [] if option is None else [option]
        done = cli("evaluate", folder, *options)
        assert done.status == 0, done.err
        assert (folder / f"evaluation{suffix}" / "metrics.json").is_file()
        done = cli("predict", folder, shapes / "val", "--score", 0, "--output", number, *options)
        assert done.status == 0, done.err
        found.add(Path(str(number), "predictions.json").read_text())
    assert len(found) == 3
    done = cli("evaluate", "--weights", "torchvision/fasterrcnn_resnet50_fpn", "--best")
    assert done.status == 2
    assert done.err == (
        "error: --best cannot go with --weights torchvision/MODEL; --best goes with the folder of a run\n"
    )


def test_a_damaged_checkpoint(cli: Command, run: tuple[Path, State], shapes: Path) -> None:
    folder, _ = run
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-100])
    for command in (["evaluate", folder], ["predict", folder, shapes / "val"]):
        done = cli(*command)
        assert done.status == 2
        assert done.err == "error: run/checkpoint.pt is no whole checkpoint: it is cut short, or something else\n"
