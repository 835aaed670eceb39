"""A training session: from settings to a trained and evaluated run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from ..backbones import InputError, load_weights
from ..backbones.fast_convs import use_fast_convs_
from ..backbones.weights import recorded_norm_eps, recorded_preprocessing
from .build import build_model, import_modules, pick_device
from .curves import curves_of_run
from .data.sampling import make_order
from .data.sets import check_categories
from .data.stream import TrainingStream, training_batches
from .data.transforms import Transform
from .engine.arrival import Batch, arriving
from .engine.keeping import REMEDIES, Keeper
from .engine.learner import Learner
from .engine.log import NoLog, RunLog, Terminal
from .engine.loop import StepReport, train
from .engine.moving_average import MovingAverage
from .engine.optimisation import make_optimiser, restore_optimiser
from .engine.precise_norms import check_norms, refresh_norms
from .engine.precision import pick_precision
from .engine.processes import Processes
from .engine.schedules import learning_rate, length
from .engine.stopping import Interrupted, Stopping
from .engine.trouble import Hints, Skips, out_of_memory
from .finetune import start_from
from .memory import keep_freed_memory
from .run import Run, write_config
from .run_report import origin_of, write_measurement_report
from .sample_cards import training_samples
from .settings import Config
from .sources import open_split
from .validation import MARK, Validation, judged

# How many training samples TensorBoard gets.
SHOWN = 4


class Finished(InputError):
    """A run has nothing left to do."""


class Session:
    """All that a run needs while it trains. Building it checks what can be checked, and writes nothing.

    content: the checkpoint to continue from; None begins anew, from the weights that the settings name.
    """

    def __init__(
        self, run: Run, console: Console, processes: Processes, content: Mapping[str, Any] | None = None
    ) -> None:
        config = run.config
        _check_batch(config.optim.batch_size, processes.count, config.optim.accumulation)
        self.run = run
        self.console = console
        self.processes = processes
        self.device = processes.device(pick_device(config.engine.device))
        if self.device.type == "cpu" and not config.backbone.checkpointing:  # where memory is short, it is given back
            keep_freed_memory()
        self.precision = pick_precision(config.engine.precision, self.device)
        self.precision.prepare()

        keys = config.head.model.target_keys
        transform = Transform(config.transforms)
        self.data = open_split(config.data, "train", transform.needed(keys))
        self.held_out = open_split(config.data, "val", keys)
        check_categories(self.held_out, self.data.categories)
        self.steps_per_epoch = len(self.data.images) / config.optim.batch_size
        self.total = length(config.schedule, self.steps_per_epoch)
        self.rate = learning_rate(config.schedule, config.optim, self.steps_per_epoch)
        seed, batch_size = config.engine.seed, config.optim.batch_size
        order = make_order(self.data, config.data.sampling, seed, batch_size)
        self.stream = TrainingStream(self.data.images, transform, seed, target_keys=keys, order=order)

        torch.manual_seed(seed)
        self.model = self._model(content)
        check_norms(self.model, self.device)
        self.learner = Learner(
            self.model,
            make_optimiser(self.model, config.optim),
            device=self.device,
            precision=self.precision,
            processes=processes,
            accumulation=config.optim.accumulation,
            clip_norm=config.optim.clip_norm,
            average=None if config.optim.ema is None else MovingAverage(self.model, config.optim.ema),
        )
        self.step, skipped = (0, 0) if content is None else self._restore(content)
        self.keeper = Keeper(run.folder, config.engine.keep)
        number = None if processes.count == 1 else processes.rank
        self.hints = Hints(console.print)
        self.skips = Skips(run.folder, config.engine.skip_limit, skipped, number)

    def _model(self, content: Mapping[str, Any] | None) -> Any:
        config = self.run.config
        model: nn.Module = build_model(config, len(self.data.categories))
        if content is not None:
            if content["categories"] != self._categories():
                raise InputError(
                    f"{self.data.source} has other categories than {self.run.folder} was trained on; "
                    "a run is continued on the data that it began with"
                )
            load_weights(model, {**content, "ema": None})
        elif config.backbone.weights is not None:
            done = start_from(model, config.backbone.weights, config, self.data.categories)
            self.console.print(f"weights: {done}", highlight=False, soft_wrap=True)
        model.to(self.device)
        if self.device.type == "cuda":  # as the images are, so that no step rearranges weights
            model.to(memory_format=torch.channels_last)
        if self.device.type == "cpu" and config.engine.fast_convolutions:
            use_fast_convs_(model)
        if config.engine.compile:
            model.compile()
        return model

    def _restore(self, content: Mapping[str, Any]) -> tuple[int, int]:
        """Bring back what a checkpoint has beside the weights; return the steps taken, and those skipped."""
        step, position = int(content["step"]), content["position"]
        batch_size = self.run.config.optim.batch_size
        if position not in (None, step * batch_size):
            raise InputError(
                f"{self.run.folder} has trained on batches of {position // step} images, not {batch_size}; "
                f"a run is continued as it began; to change its batches, begin anew with --weights {self.run.folder}"
            )
        learner = self.learner
        restore_optimiser(learner.optimiser, content["optimiser"])
        if content["scaler"]:
            learner.scaler.load_state_dict(content["scaler"])
        if learner.average is not None and content["ema"] is not None:
            learner.average.load_state_dict(content["ema"])
        return step, int(content["skipped"])

    def train(self) -> None:
        """Train to the end of the schedule, and evaluate; a signal to stop raises Interrupted, after saving."""
        folder, main = self.run.folder, self.processes.main
        with self._explained():
            if main:
                write_config(self.run)
            advice = f"stopped; continue with `vertebra train --resume {folder}`"
            with closing(RunLog(folder, self.step) if main else NoLog()) as journal, Stopping(advice) as stopping:
                if self.step >= self.total and not self._any(main and not journal.has(self.step, MARK)):
                    raise Finished(
                        f"{folder} has taken all its {self.total} steps; to go on, extend it: {self._longer()}"
                    )
                if main and not self.step:
                    for name, picture in training_samples(self.stream, self.data.categories, SHOWN):
                        journal.pictures(0, name, picture)
                for stop in self._pauses():
                    if self.step < stop:
                        self._train_to(stop, journal, stopping)
                    if self._any(main and not journal.has(self.step, MARK)):  # nor before a kill
                        self._validate(journal)

    def _pauses(self) -> list[int]:
        """Return the steps at which training pauses to evaluate, from the present one on, the last one included."""
        every = self.run.config.engine.evaluate_every
        interval = self.total if every is None else max(1, round(every * self.steps_per_epoch))
        return [step for step in range(interval, self.total, interval) if step >= self.step] + [self.total]

    def _longer(self) -> str:
        """Return the option that would make the schedule twice as long."""
        schedule = self.run.config.schedule
        if schedule.steps is not None:
            return f"--set schedule.steps={2 * schedule.steps}"
        return f"--set schedule.epochs={2 * schedule.epochs:g}"

    def _any(self, claim: bool) -> bool:
        """Return whether a claim is true in any of the processes."""
        return bool(self.processes.largest(torch.tensor(int(claim))))

    def _train_to(self, stop: int, journal: RunLog | NoLog, stopping: Stopping) -> None:
        engine = self.run.config.engine
        milestones = {round(epoch * self.steps_per_epoch) for epoch in engine.milestones}

        def after_step(report: StepReport) -> None:
            terminal.show(report)
            self.hints.see(report)
            journal.write(report.step, step_record(report, self.steps_per_epoch))
            if report.step < stop and (report.step in milestones or report.step % engine.checkpoint_every == 0):
                self._save(report.step, report.step in milestones)

        def skip(step: int, losses: Mapping[str, float], batch: Batch) -> None:
            self.skips.skip(step, losses, batch, self.model)

        with stopping.noting():  # steps and checkpoints are done in peace
            with Terminal(self.console, self.total, self.step, engine.log_every, self._opening()) as terminal:
                self.step = train(
                    self.learner,
                    self._batches(self.step, stop),
                    self.rate,
                    start=self.step,
                    seed=engine.seed,
                    stopping=stopping,
                    after_step=after_step,
                    skip=skip,
                )
            if self.step == stop and engine.precise_norms:
                self._refresh_norms()
            self._save(self.step, self.step in milestones)
        asked = int(self.processes.largest(torch.tensor(stopping.asked or 0)))
        if asked:
            raise Interrupted(
                f"stopped after step {self.step} of {self.total}; continue with `vertebra train --resume "
                f"{self.run.folder}`",
                asked,
            )

    def _batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield this process's share of the batches of the steps."""
        config, processes = self.run.config, self.processes
        return training_batches(
            self.stream,
            config.optim.batch_size,
            start,
            stop,
            config.engine.workers,
            share=(processes.rank, processes.count),
        )

    def _opening(self) -> str:
        return "compiling the trunk: the first steps take minutes" if self.run.config.engine.compile else ""

    def _refresh_norms(self) -> None:
        """Give batch norms the statistics of the present weights, and of the average, where the settings say so."""
        config, average = self.run.config, self.learner.average
        steps = math.ceil(config.engine.precise_norms / config.optim.batch_size)

        def forward(batch: Batch) -> None:
            images, targets = [image for image, _ in batch], [target for _, target in batch]
            with self.precision.autocast(self.device):
                self.model.losses(images, targets)

        def refresh() -> None:
            batches = arriving(self._batches(0, steps), self.device)
            refresh_norms(self.model, batches, forward, self.processes.mean)

        refresh()
        if average is not None:
            with average.applied():
                refresh()

    def _validate(self, journal: RunLog | NoLog) -> None:
        engine = self.run.config.engine
        validation = Validation(
            self.model,
            self.learner.average,
            self.held_out,
            self.data.categories,
            self.run.folder,
            engine.loss_images,
            self.device,
            self.precision,
            self.processes,
            engine.workers,
            self.console,
        )
        last = self.step == self.total
        record, found = validation.measure(engine.pictures if last else 0)
        if found is None:
            return
        value = judged(record, engine.best)
        if value is not None and all(value > (judged(before, engine.best) or 0) for before in journal.evaluations):
            self.keeper.save_best(self._content(self.step))
        # After that, so that an evaluation that a kill cuts short is done again, with all that belongs to it.
        journal.write(self.step, record)
        curves_of_run(self.run.folder)
        if last:
            folder = self.run.folder
            origin = origin_of(self.run.config, folder.resolve().name, f"step {self.step}", "val", folder)
            page = write_measurement_report(folder / "report", found, origin)
            self.console.print(f"report: {page}", highlight=False, soft_wrap=True)

    def _save(self, step: int, milestone: bool = False) -> None:
        self.processes.share_buffers(self.model)
        if self.processes.main:
            self.keeper.save(self._content(step), milestone)

    def _content(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint has."""
        learner = self.learner
        return {
            "model": self.model.state_dict(),
            "preprocessing": recorded_preprocessing(self.model),
            "norm_eps": recorded_norm_eps(self.model),
            "ema": None if learner.average is None else learner.average.state_dict(),
            "optimiser": learner.optimiser.state_dict(),
            "scaler": learner.scaler.state_dict(),
            "step": step,
            "position": step * self.run.config.optim.batch_size,
            "skipped": self.skips.skipped,
            "categories": self._categories(),
            "config": self.run.config.to_yaml(),
        }

    def _categories(self) -> list[list[int | str]]:
        return [[category.id, category.name] for category in self.data.categories]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn want of memory, and what the system refuses to write, into what to do about it."""
        config, folder = self.run.config, self.run.folder
        try:
            yield
        except OSError as error:
            if error.errno not in REMEDIES:
                raise
            again = (
                f"continue with `vertebra train --resume {folder}`" if self.run.checkpoint.exists() else "start again"
            )
            raise InputError(
                f"{error.filename or folder}: {error.strerror}. {REMEDIES[error.errno]}, and {again}"
            ) from error
        except (RuntimeError, MemoryError) as error:
            explained = out_of_memory(
                error,
                images=config.optim.batch_size // self.processes.count,
                accumulation=config.optim.accumulation,
                precision=self.precision.name,
                checkpointing=config.backbone.checkpointing,
                device=self.device,
            )
            if explained is None:
                raise
            raise explained from error


def _check_batch(batch_size: int, processes: int, accumulation: int) -> None:
    if batch_size % (processes * accumulation):
        raise InputError(
            f"optim.batch_size={batch_size} images cannot be shared out evenly over {processes} processes with "
            f"optim.accumulation={accumulation}; choose a multiple of {processes * accumulation}"
        )


def step_record(report: StepReport, steps_per_epoch: float) -> dict[str, Any]:
    """Return a step as the log has it; memory in MB."""
    return {
        "epoch": round(report.step / steps_per_epoch, 4),
        "loss": report.loss,
        "losses": report.losses,
        "learning_rate": report.learning_rate,
        # An overflow of float16 has none, and JSON has no infinity.
        **({"gradient_norm": report.gradient_norm} if math.isfinite(report.gradient_norm) else {}),
        "images_per_second": round(report.images_per_second, 3),
        "waiting": round(report.waiting, 4),
        "memory": round(report.memory / 1e6),
        "dropped": report.dropped,
    }


def start(config: Config, folder: Path, console: Console, processes: Processes) -> None:
    """Train a new run in a folder; where it fails and leaves nothing to look at, the folder goes again."""
    import_modules(config.choices.imports)
    new = not folder.exists()
    session = Session(Run(folder, config), console, processes)
    try:
        session.train()
    except InputError:
        if new and processes.main and not (session.run.checkpoint.exists() or session.skips.skipped):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def resume(run: Run, content: Mapping[str, Any], console: Console, processes: Processes) -> None:
    """Continue a run from a checkpoint of it; one that has nothing left to do is Finished."""
    Session(run, console, processes, content).train()
