"""A training session: from settings to a trained and evaluated run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..backbones import InputError, load_weights
from ..backbones.weights import recorded_norm_eps, recorded_preprocessing
from .build import build_model, import_modules, pick_device
from .config import Config
from .data.sampling import make_order
from .data.sets import check_categories
from .data.stream import TrainingStream, training_batches
from .data.transforms import Transform
from .engine.checkpoint import read_checkpoint, save_checkpoint
from .engine.log import RunLog, Terminal
from .engine.loop import StepReport, train
from .engine.optimisation import learning_rate, make_optimiser
from .evaluation.measure import Trial, measure
from .finetune import start_from
from .memory import keep_freed_memory
from .run import Run
from .sources import open_split


class Interrupted(Exception):
    """The user stopped the run; it can be resumed."""


class Session:
    """All that a run needs while it trains. Building it checks what can be checked, and writes nothing."""

    def __init__(self, run: Run, console: Console) -> None:
        config = run.config
        self.run = run
        self.console = console
        self.device = pick_device(config.engine.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        keys = config.head.model.target_keys
        transform = Transform(config.transforms)
        self.data = open_split(config.data, "train", transform.needed(keys))
        self.held_out = open_split(config.data, "val", keys)
        check_categories(self.held_out, self.data.categories)
        self.steps_per_epoch = len(self.data.images) / config.optim.batch_size
        self.total = max(1, round(config.schedule.epochs * self.steps_per_epoch))
        self.rate = learning_rate(config.schedule, config.optim, self.steps_per_epoch)
        torch.manual_seed(config.engine.seed)
        self.model = build_model(config, len(self.data.categories)).to(self.device)
        seed, batch_size = config.engine.seed, config.optim.batch_size
        self.stream = TrainingStream(
            self.data.images,
            transform,
            seed,
            target_keys=keys,
            order=make_order(self.data, config.data.sampling, seed, batch_size),
        )
        self.optimiser = make_optimiser(self.model, config.optim)
        self.step = 0

    def initialise(self, weights: str) -> None:
        """Start from weights of this model or of its backbone, or from public ones by their name or tag."""
        done = start_from(self.model, weights, self.run.config, self.data.categories)
        self.console.print(f"weights: {done}", highlight=False, soft_wrap=True)

    def restore(self) -> None:
        """Continue from the run's checkpoint."""
        content = read_checkpoint(self.run.checkpoint)
        if content["categories"] != self._categories():
            raise InputError(
                f"{self.data.source} has other categories than {self.run.folder} was trained on; "
                "a run is continued on the data that it began with"
            )
        load_weights(self.model, content)
        self.optimiser.load_state_dict(content["optimiser"])
        self.step = int(content["step"])
        if self.step >= self.total:
            raise InputError(
                f"{self.run.folder} has taken all its {self.total} steps; to go on, extend it: "
                f"--set schedule.epochs={2 * self.run.config.schedule.epochs:g}"
            )

    def train(self) -> None:
        """Train to the end of the schedule, and evaluate; Ctrl-C raises Interrupted, after saving."""
        folder, config = self.run.folder, self.run.config
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.to_yaml())
        log = RunLog(folder, self.step)
        try:
            for stop in self._pauses():
                with Terminal(self.console, self.total, self.step, config.engine.log_every) as terminal:
                    self._train_to(stop, log, terminal)
                self._evaluate(log, config.engine.pictures if stop == self.total else 0)
        finally:
            log.close()

    def _pauses(self) -> list[int]:
        """Return the steps at which training pauses to evaluate, the last one included."""
        every = self.run.config.engine.evaluate_every
        interval = self.total if every is None else max(1, round(every * self.steps_per_epoch))
        return [step for step in range(interval, self.total, interval) if step > self.step] + [self.total]

    def _train_to(self, stop: int, log: RunLog, terminal: Terminal) -> None:
        config = self.run.config
        batches = training_batches(self.stream, config.optim.batch_size, self.step, stop, config.engine.workers)

        def after_step(report: StepReport) -> None:
            terminal.show(report)
            log.write(report.step, step_record(report, self.steps_per_epoch))
            if report.step % config.engine.checkpoint_every == 0 and report.step < stop:
                self._save(report.step)

        self.step = train(
            self.model,
            self.optimiser,
            batches,
            self.rate,
            start=self.step,
            seed=config.engine.seed,
            device=self.device,
            clip_norm=config.optim.clip_norm,
            after_step=after_step,
        )
        self._save(self.step)
        if self.step < stop:
            folder = self.run.folder
            raise Interrupted(
                f"stopped after step {self.step} of {self.total}; continue with `vertebra train --resume {folder}`"
            )

    def _save(self, step: int) -> None:
        content = {
            "model": self.model.state_dict(),
            "preprocessing": recorded_preprocessing(self.model),
            "norm_eps": recorded_norm_eps(self.model),
            "optimiser": self.optimiser.state_dict(),
            "step": step,
            "categories": self._categories(),
            "config": self.run.config.to_yaml(),
        }
        save_checkpoint(self.run.checkpoint, content)

    def _categories(self) -> list[list[int | str]]:
        return [[category.id, category.name] for category in self.data.categories]

    def _evaluate(self, log: RunLog, pictures: int) -> None:
        trial = Trial(
            self.model,
            self.held_out,
            self.data.categories,
            self.run.folder / "evaluation",
            pictures=pictures,
            device=self.device,
            workers=self.run.config.engine.workers,
            console=self.console,
        )
        metrics, summary = measure(trial)
        self.console.print(summary, highlight=False)
        log.write(self.step, metrics)


def step_record(report: StepReport, steps_per_epoch: float) -> dict[str, Any]:
    """Return a step as the log has it."""
    return {
        "epoch": round(report.step / steps_per_epoch, 4),
        "loss": report.loss,
        "losses": report.losses,
        "learning_rate": report.learning_rate,
        "images_per_second": round(report.images_per_second, 3),
        "dropped": report.dropped,
    }


def start(config: Config, folder: Path, console: Console) -> None:
    """Train a new run in a folder; where it fails before its first checkpoint, the folder goes again."""
    import_modules(config.choices.imports)
    session = Session(Run(folder, config), console)
    if config.backbone.weights is not None:
        session.initialise(config.backbone.weights)
    new = not folder.exists()
    try:
        session.train()
    except InputError:
        if new and not session.run.checkpoint.exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def resume(run: Run, console: Console) -> None:
    """Continue a run from its checkpoint."""
    session = Session(run, console)
    session.restore()
    session.train()
