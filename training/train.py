"""The one training loop, over phases and players. It knows no family.

Exact resume: everything that the next step depends on is in the checkpoint (weights, average, optimiser, generator and global RNG
states, position), and the order of an epoch is a function of seed, phase and epoch. So N steps equal k steps, stop, resume, N - k
steps, bit for bit on a CPU.
"""

from __future__ import annotations

import json
import math
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from manifold.runtime.errors import reason
from manifold.runtime.repository import replacing
from manifold.training import batches, datasets, families
from manifold.training.batches import Batch, in_order, joined
from manifold.training.data import Data
from manifold.training.errors import Diverged, TrainingError
from manifold.training.loop import sheets
from manifold.training.loop.average import Average
from manifold.training.loop.progress import Progress
from manifold.training.loop.watching import Alarm
from manifold.training.networks.layers import round_weights
from manifold.training.phases import Phase, Player
from manifold.training.runs import ALARMS, CONFIG, LOG, METRICS, Run, load_checkpoint, read_log, save_checkpoint


class Interrupted(TrainingError):
    """Ctrl-C: the step was finished and a checkpoint written."""


@dataclass
class Position:
    """Where training is. `step` counts over all phases, `in_phase` since the phase began."""

    phase: int = 0
    in_phase: int = 0
    step: int = 0
    rolled_back: int = 0  # times; each gives what follows another seed


def train(
    run: Run,
    data: Data | None = None,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    device: str = "auto",
    precision: Any = "32-true",
    devices: int = 1,
    quiet: bool = False,
    watch: bool = True,
) -> Path:
    """Trains the run to its end (or for `stop_after` steps, leaving a checkpoint) and returns its folder.

    Without `watch` nothing but checkpoints is written: no log, curves, samples or figures, for a model that is used once and dropped.
    Raises Diverged when a loss is not finite, Interrupted on Ctrl-C; after both, the last checkpoint is readable.
    """
    if run.checkpoint.exists() and not resume:
        raise TrainingError(
            f"{run.folder} holds a run already: `manifold resume {run.folder}` goes on with it, --out names another folder"
        )
    try:
        fabric = Fabric(accelerator=device, devices=devices, precision=precision)
    except (RuntimeError, ValueError, TypeError) as error:
        raise TrainingError(f"device, devices, precision: {error}") from error
    fabric.launch()
    loop = _fitting(run, data or datasets.load(run.data), fabric, quiet, watch)
    with run.sole() if fabric.is_global_zero else nullcontext():
        try:
            loop.begin(resume)
            loop.run_phases(stop_after)
        except OSError as error:
            raise loop.stopped_by(error) from error
    return run.folder


def _fitting(run: Run, data: Data, fabric: Fabric, quiet: bool, watch: bool) -> Loop:
    """Return the loop of a run. Raises TrainingError if its model needs more memory than there is."""
    with _in_memory():
        return Loop(run, data, fabric, quiet, watch)


@contextmanager
def _in_memory() -> Iterator[None]:
    """Turn torch's error for a model that is too large into a TrainingError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not re.search("memory|overflow", str(error)):
            raise
        raise TrainingError(
            f"the model does not fit into memory; make it smaller with --set: {reason(error)}"
        ) from error


class Loop:
    """State of a training and the steps that change it."""

    def __init__(self, run: Run, data: Data, fabric: Fabric, quiet: bool = True, watch: bool = True) -> None:
        self.run, self.data, self.fabric, self.quiet = run, data, fabric, quiet
        self.watched = watch and fabric.is_global_zero
        self.family, self.config = families.get(run.family), run.config
        torch.manual_seed(self.config.seed)
        self.bare = self.family.build(self.config, data)
        self.model = fabric.setup_module(self.bare)
        for name in vars(type(self.bare)):
            if "loss" in name and callable(getattr(self.bare, name)):
                self.model.mark_forward_method(name)
        self.average = Average(self.bare, self.config.ema)
        self.generator = torch.Generator(fabric.device).manual_seed(self._seed(fabric.global_rank))
        self.phases: list[Phase] = self.family.phases(self.model, self.config)
        if fabric.world_size > 1 and any(phase.watch and phase.watch.rollbacks for phase in self.phases):
            raise TrainingError(
                "rollbacks: one process goes back alone; train on one device, or without", field="rollbacks"
            )
        self.position = Position()
        self.optimizers: list[Any] = []
        self.seconds = 0.0  # of training, not of looking
        self.curves = sheets.Curves(run.folder / LOG, run.folder / sheets.CURVES)
        self.window: dict[str, float] = {}  # sums since the last look of the phase's watch
        self.source = batches.source(data.train, fabric.device)
        self.batch_size = min(self.config.batch_size, len(data.train) // fabric.world_size)
        self.steps_per_pass = len(data.train) // (self.batch_size * fabric.world_size)
        self.steps_per_epoch = self.config.epoch_steps or self.steps_per_pass
        self.enter_phase()

    def begin(self, resume: bool) -> None:
        """Go back to the checkpoint, or make the folder of a new run."""
        if resume:
            self.restore()
        elif self.fabric.is_global_zero:
            self.run.save()
            for name in (LOG, ALARMS):
                (self.run.folder / name).unlink(missing_ok=True)

    def stopped_by(self, error: OSError) -> TrainingError:
        """Return what to tell about a file that could not be written, most often because the disk is full."""
        return TrainingError(
            f"{error.filename or self.run.folder}: {error.strerror or error}: training stopped at step {self.position.step}; {self._kept()}. "
            f"{'Make room, then `manifold resume ' + str(self.run.folder) + '`' if self.run.checkpoint.exists() else 'Make room and start it again'}."
        )

    def _kept(self) -> str:
        if self.run.checkpoint.exists():
            return f"the last good checkpoint is {self.run.checkpoint}"
        return "there is no checkpoint yet"

    # --- one step ---

    def enter_phase(self) -> None:
        """Fresh optimisers for the players of the current phase."""
        players = self.phases[self.position.phase].players
        self.optimizers = []
        for player in players:
            fused = self.fabric.device.type in ("cpu", "cuda")
            optimizer = torch.optim.AdamW(
                player.parameters, lr=player.lr, betas=player.betas, weight_decay=player.weight_decay, fused=fused
            )
            self.optimizers.append(self.fabric.setup_optimizers(optimizer))

    def batch(self) -> Batch:
        """The batch at the current position."""
        number, place = divmod(self.position.in_phase, self.steps_per_pass)
        path = (self.position.phase, number, *([self.position.rolled_back] if self.position.rolled_back else []))
        if place == 0 or self._order_of != path:
            order = torch.Generator().manual_seed(self._seed(*path))
            self._order = torch.randperm(len(self.data.train), generator=order).to(self.source.device)
            self._order_of = path
        start = (place * self.fabric.world_size + self.fabric.global_rank) * self.batch_size
        index = self._order[start : start + self.batch_size]
        return self.source.batch(index, self.generator, self.position.in_phase / self.steps_per_epoch)

    def _seed(self, *path: int) -> int:
        """A seed for what `path` names, a function of the run's own."""
        return int(np.random.SeedSequence([self.config.seed, *path]).generate_state(1)[0])

    _order_of: tuple[int, ...] = ()
    _order: Tensor

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One turn for each player; returns the losses by name, not yet read from the device."""
        logged: dict[str, Tensor] = {}
        phase = self.phases[self.position.phase]
        rate = self._rate(phase)
        for player, optimizer in zip(phase.players, self.optimizers, strict=True):
            losses = player.loss(batch)
            if not math.isfinite(losses["loss"].item()):
                raise self._diverged(phase, player, losses)
            self.model.zero_grad()  # of every player: a loss leaves gradients in the others' weights too
            self.fabric.backward(losses["loss"])
            norm = None
            if self.config.clip_norm or phase.watch:
                norm = self.fabric.clip_gradients(
                    self.model, optimizer, max_norm=self.config.clip_norm or math.inf, error_if_nonfinite=False
                )
            for group in optimizer.param_groups:
                group["lr"] = player.lr * rate
            optimizer.step()
            prefix = f"{player.name}/" if len(phase.players) > 1 else ""
            logged |= {prefix + name: value.detach() for name, value in losses.items()}
            if phase.watch and norm is not None:
                logged[f"{prefix}gradient_norm"] = norm.detach()
        self.average.update(self.position.step)
        self.position.step += 1
        self.position.in_phase += 1
        return logged

    def _rate(self, phase: Phase) -> float:
        if self.config.schedule == "cosine":
            done = self.position.in_phase / (phase.epochs * self.steps_per_epoch)
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        return 1.0

    def _diverged(self, phase: Phase, player: Player, losses: dict[str, Tensor]) -> Diverged:
        values = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
        return Diverged(
            f"not finite at step {self.position.step}, phase {phase.name!r}, player {player.name!r}: {values}; {self._kept()}. Try a smaller lr or clip_norm."
        )

    # --- all steps ---

    def run_phases(self, stop_after: int | None = None) -> None:
        """Every phase from the current position on, with a checkpoint, test losses and a sheet at the end of each epoch."""
        last = None if stop_after is None else self.position.step + stop_after
        with (
            _finish_step_on_interrupt() as interrupted,
            Progress(self.quiet or not self.fabric.is_global_zero) as progress,
            self.curves,
        ):
            while self.position.phase < len(self.phases):
                phase = self.phases[self.position.phase]
                total = phase.epochs * self.steps_per_epoch
                progress.phase(phase.name, self.position.in_phase, total)
                while self.position.in_phase < total:
                    self._epoch(phase, progress, lambda: self.position.step == last or interrupted())
                    if interrupted():
                        raise Interrupted(
                            f"stopped at step {self.position.step}; `manifold resume {self.run.folder}` goes on from there"
                        )
                    if self.position.step == last:
                        return
                self._next_phase()
        self._finish()

    def _epoch(self, phase: Phase, progress: Progress, stop: Callable[[], bool]) -> None:
        """Steps to the end of the epoch, or until told to stop; either way there is a checkpoint then."""
        sums: dict[str, Tensor] = {}
        counted, began = 0, time.perf_counter()
        size = self.batch_size * self.fabric.world_size
        while True:
            try:
                losses = self.step(self.batch())
            except Diverged as error:
                if not self._roll_back(phase, [Alarm("not finite", str(error), True)], progress):
                    raise
                continue
            counted += 1
            for name, value in losses.items():
                sums[name] = sums[name] + value if name in sums else value
            progress.advance(size, losses)
            if self._look(phase, losses, progress):
                continue
            if self.position.in_phase % self.steps_per_epoch == 0:
                taken = time.perf_counter() - began
                rate = counted * size / taken
                self.seconds += taken
                means = {name: float(value) / counted for name, value in sums.items()}
                self._end_epoch(phase, means, rate, progress)
                return
            if stop():
                self.seconds += time.perf_counter() - began
                self.checkpoint()
                return

    # --- watching ---

    def _look(self, phase: Phase, losses: Mapping[str, Tensor], progress: Progress) -> bool:
        """Lets the phase's watch look every so many steps and logs what it saw. True where that was so bad that training went back."""
        watch = phase.watch
        if watch is None or not self.watched:
            return False
        for name, value in losses.items():
            self.window[name] = self.window.get(name, 0.0) + float(value)
        if self.position.in_phase % watch.every:
            return False
        seen = watch.look(self.position.step, {name: value / watch.every for name, value in self.window.items()})
        self.window = {}
        self._log({"step": self.position.step, "phase": phase.name, "watch": seen.record})
        if self._roll_back(phase, [alarm for alarm in seen.alarms if alarm.severe], progress):
            return True
        for alarm in seen.alarms:
            self._alarm(alarm, progress)
        if watch.rollbacks and not seen.alarms:
            self.checkpoint(self.run.good)
        return False

    def _alarm(self, alarm: Alarm, progress: Progress, gone_back_to: int | None = None) -> None:
        """Into a file of its own, which going back does not shorten, and onto the terminal."""
        about = {"step": self.position.step, "alarm": alarm.name, "detail": alarm.detail, "gone_back_to": gone_back_to}
        with (self.run.folder / ALARMS).open("a") as file:
            file.write(json.dumps(about) + "\n")
        back = "" if gone_back_to is None else f"; back to step {gone_back_to}"
        progress.say(f"step {about['step']}: {alarm.name}: {alarm.detail}{back}")

    def _roll_back(self, phase: Phase, alarms: Sequence[Alarm], progress: Progress) -> bool:
        """Goes back to the last good state, on another seed from there. False where there is nothing to go back for, none, or no leave."""
        times = self.position.rolled_back
        if not alarms or phase.watch is None or times >= phase.watch.rollbacks or not self.run.good.exists():
            return False
        state = load_checkpoint(self.run.good)
        for alarm in alarms:
            self._alarm(alarm, progress, state["position"]["step"])
        self._apply(state)
        self.position.rolled_back = times + 1
        self.generator.manual_seed(self._seed(self.position.step, self.position.rolled_back))
        self._cut_log()
        progress.phase(phase.name, self.position.in_phase, phase.epochs * self.steps_per_epoch)
        return True

    def _log(self, record: Mapping[str, Any]) -> None:
        with (self.run.folder / LOG).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _next_phase(self) -> None:
        self.position.phase += 1
        self.position.in_phase = 0
        if self.position.phase < len(self.phases):
            self.enter_phase()
        self.checkpoint()

    @torch.no_grad()
    def _end_epoch(self, phase: Phase, losses: dict[str, float], rate: float, progress: Progress) -> None:
        epoch = self.position.in_phase // self.steps_per_epoch
        record = {
            "step": self.position.step,
            "phase": phase.name,
            "epoch": epoch,
            "samples_per_second": round(rate, 1),
            **{f"train/{k}": v for k, v in losses.items()},
        }
        look = epoch & (epoch - 1) == 0 or epoch == phase.epochs  # powers of two, and the last
        if self.watched:
            with self.average.applied():
                record |= self.test_record()
                if look:
                    drawn = self.family.draw(
                        self.bare, 64, torch.Generator(self.fabric.device).manual_seed(self.config.seed)
                    )
                    if drawn is not None:
                        sheets.save(
                            drawn.float().cpu().numpy(),
                            self.data.spec,
                            self.run.folder / "samples" / f"{phase.name}-{epoch:04d}",
                        )
            self._log(record)
            progress.epoch(record)
            self.curves.grown()
        self.checkpoint()

    @torch.no_grad()
    def test_record(self) -> dict[str, Any]:
        """Losses on the test part (at most `test_items`), `test/NAME`, and what else the family wants logged.

        With a generator of its own, so that looking does not move the training's.
        """
        part, limit = self.data.test, min(len(self.data.test), self.config.test_items)
        generator = torch.Generator(self.fabric.device).manual_seed(self.config.seed)
        sums: dict[str, float] = {}
        self.bare.eval()
        for batch in in_order(part, 500, generator, limit):
            for name, values in self.family.evaluate(self.bare, batch).items():
                sums[name] = sums.get(name, 0.0) + float(values.double().sum()) / limit
        more = self.family.monitor(self.bare, joined(part, generator, limit))
        self.bare.train()
        return {**{f"test/{name}": value for name, value in sums.items()}, **more}

    @torch.no_grad()
    def _finish(self) -> None:
        if not self.watched:
            return
        with self.average.applied():
            self.bare.eval()
            round_weights(self.bare, self.config.stored)  # the context puts them back
            metrics = [
                metric.model_dump(mode="json") for metric in self.family.report(self.bare, self.config, self.data)
            ]
        with replacing(self.run.folder / METRICS) as path:
            path.write_text(json.dumps(metrics, indent=1) + "\n")

    # --- checkpoints ---

    def checkpoint(self, path: Path | None = None) -> None:
        """Writes everything the next step depends on: the run's checkpoint, or another."""
        if not self.fabric.is_global_zero:
            return
        rng: dict[str, Any] = {"generator": self.generator.get_state(), "cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        phase = self.phases[min(self.position.phase, len(self.phases) - 1)]
        watching = {} if phase.watch is None else {"watch": phase.watch.state(), "window": self.window}
        save_checkpoint(
            path or self.run.checkpoint,
            {
                **watching,
                "spent": {"seconds": round(self.seconds, 1), "device": _named(self.fabric.device)},
                "position": vars(self.position),
                "model": self.bare.state_dict(),
                "average": self.average.shadow,
                "optimizers": [o.optimizer.state_dict() for o in self.optimizers],
                "rng": rng,
            },
        )

    def restore(self) -> None:
        """Goes back to the run's checkpoint; lines of the log beyond it are cut off."""
        self._apply(load_checkpoint(self.run.checkpoint))
        self._cut_log()

    def _apply(self, state: Mapping[str, Any]) -> None:
        """Take over everything that a checkpoint holds. Raises TrainingError if it is of another model than the config describes."""
        with _fits(self.run):
            self._take(state)

    def _take(self, state: Mapping[str, Any]) -> None:
        self.position = Position(**state["position"])
        self.seconds = max(self.seconds, state.get("spent", {}).get("seconds", 0.0))
        self.bare.load_state_dict(state["model"])
        self.average.shadow = {name: value.to(self.fabric.device) for name, value in state["average"].items()}
        if self.position.phase < len(self.phases):
            self.enter_phase()
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.optimizer.load_state_dict(saved)
            watch = self.phases[self.position.phase].watch
            if watch is not None and "watch" in state:
                watch.restore(state["watch"])
                self.window = dict(state["window"])
        if self.fabric.is_global_zero:
            self.generator.set_state(state["rng"]["generator"])
        else:  # other processes draw anew: resume is exact for one process
            self.generator.manual_seed(self._seed(self.fabric.global_rank, self.position.step))
        torch.set_rng_state(state["rng"]["cpu"])
        if "cuda" in state["rng"] and self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.fabric.device)

    def _cut_log(self) -> None:
        """Takes lines beyond the current step off the log."""
        log = self.run.folder / LOG
        if log.exists() and self.fabric.is_global_zero:
            records = [record for record in read_log(log) if record["step"] <= self.position.step]
            with replacing(log) as path:
                path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def _named(device: torch.device) -> str:
    """What a device is called: a GPU by its model, a CPU by how many threads were taken of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return (
        f"{torch.get_num_threads()} CPU thread{'s' if torch.get_num_threads() > 1 else ''}"
        if device.type == "cpu"
        else device.type
    )


@contextmanager
def _fits(run: Run) -> Iterator[None]:
    """Turn the errors of a checkpoint that is of another model than the config describes into a TrainingError."""
    try:
        yield
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:  # the last is torch's, for other shapes
        raise TrainingError(
            f"{run.checkpoint} does not fit {run.folder / CONFIG}: {reason(error)}; one of the two was made by another run or another "
            "version of Manifold"
        ) from error


def trained_model(run: Run, data: Data) -> nn.Module:
    """Return the run's model with its averaged weights as the artifact stores them, in evaluation mode on the CPU.

    Raises TrainingError if the checkpoint is of another model than the config describes.
    """
    with _in_memory():
        model = families.get(run.family).build(run.config, data)
    with _fits(run):
        model.load_state_dict(load_checkpoint(run.checkpoint)["average"])
    round_weights(model, run.config.stored)
    return model.eval()


@contextmanager
def _finish_step_on_interrupt() -> Iterator[Any]:
    """Ctrl-C sets a flag that the loop reads between steps; a second one interrupts at once."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: the caller owns the signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
