"""The training loop over phases and players. It does not depend on a family.

Training resumes exactly. The checkpoint contains everything on which the next step depends (weights, average, optimiser, states of the
generator and the global RNG, position), and the order of an epoch is a function of seed, phase and epoch. On a CPU, N steps therefore equal
k steps, a stop, a resume and N - k steps bit for bit.

Losses are checked for finite values every CHECKED steps, and before an inspection, an evaluation or a checkpoint. Reading them at each step
would make a GPU wait. The error of a loss that is not finite names the step at which it first occurred, and nothing computed since then is
written.
"""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manifold.runtime.errors import command
from manifold.runtime.repository import replacing
from manifold.training.batches import Batch
from manifold.training.data import Data
from manifold.training.errors import Diverged, TrainingError
from manifold.training.loop import sheets
from manifold.training.loop.evaluation import choose_average, save_figures, save_sheet, test_record
from manifold.training.loop.interrupts import Interrupted, finish_step
from manifold.training.loop.progress import Progress
from manifold.training.loop.state import State
from manifold.training.loop.unread import Unread
from manifold.training.loop.watching import Alarm
from manifold.training.phases import Phase, Player
from manifold.training.runs import ALARMS, LOG, METRICS, TrainingRun, read_log

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from manifold.training.loop.alone import Alone

CHECKED = 20  # steps between two checks that losses are finite


class Loop(State):
    """The training loop: the steps that change the state of a training."""

    def __init__(
        self, run: TrainingRun, data: Data, fabric: Fabric | Alone, quiet: bool = True, watch: bool = True
    ) -> None:
        super().__init__(run, data, fabric)
        self.quiet, self.watched = quiet, watch and fabric.is_global_zero
        self.curves = sheets.Curves(run.folder / LOG, run.folder / sheets.CURVES)
        self.unread = Unread()
        self.sums: dict[str, float] = {}  # sums of the losses that were read in this epoch
        self.counted = 0  # number of steps in these sums

    def begin(self, resume: bool) -> None:
        """Restore the checkpoint, or create the folder of a new run."""
        if resume:
            self.restore()
            self._cut_log()
        elif self.fabric.is_global_zero:
            self.run.save(self.data)
            for name in (LOG, ALARMS):
                (self.run.folder / name).unlink(missing_ok=True)

    def stopped_by(self, error: OSError) -> TrainingError:
        """Return the error for a file that could not be written."""
        again = f"then `{command('resume', self.run.folder)}`" if self.run.checkpoint.exists() else "and start it again"
        remedy = "Free some disk space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Make the file writable"
        return TrainingError(
            f"{error.filename or self.run.folder}: {error.strerror or error}; training stopped at step {self.position.step}; {self._kept()}. "
            f"{remedy}, {again}."
        )

    def _kept(self) -> str:
        if self.run.checkpoint.exists():
            return f"the last good checkpoint is {self.run.checkpoint}"
        return "there is no checkpoint yet"

    # --- one step ---

    def batch(self) -> Batch:
        """Return the batch at the current position."""
        number, place = divmod(self.position.in_phase, self.steps_per_pass)
        path = (self.position.phase, number, *([self.position.rolled_back] if self.position.rolled_back else []))
        if place == 0 or self._order_of != path:
            generator = torch.Generator().manual_seed(self.seed(*path))
            self._order = torch.randperm(len(self.data.train), generator=generator).to(self.source.device)
            self._order_of = path
        start = (place * self.fabric.world_size + self.fabric.global_rank) * self.batch_size
        indices = self._order[start : start + self.batch_size]
        return self.source.batch(indices, self.generator, self.position.in_phase / self.steps_per_epoch)

    _order_of: tuple[int, ...] = ()
    _order: Tensor

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Train each player for one step. Return the losses by name, not yet copied from the device.

        Several processes return the means over all of them. Raises Diverged if a loss of an earlier step was not finite.
        """
        if len(self.unread) >= CHECKED:
            self.check()
        logged: dict[str, Tensor] = {}
        phase = self.phases[self.position.phase]
        rate = self._rate(phase)
        for player, optimizer in zip(phase.players, self.optimizers, strict=True):
            losses, norm = self._turn(phase, player, optimizer, rate, batch)
            prefix = _prefix(phase, player)
            logged |= {prefix + name: value.detach() for name, value in losses.items()}
            if phase.watch and norm is not None:
                logged[f"{prefix}gradient_norm"] = norm.detach()
        if (
            self.fabric.world_size > 1
        ):  # if a loss of one process is not finite, neither is the mean, and all processes stop
            means = self.fabric.all_reduce(torch.stack(list(logged.values())), reduce_op="mean")
            assert isinstance(means, Tensor)
            logged = dict(zip(logged, means.unbind(), strict=True))
        self.unread.add(self.position.step, logged)
        for average in filter(None, (self.average, self.second)):
            average.update(self.position.step)
        self.position.step += 1
        self.position.in_phase += 1
        return logged

    def _turn(
        self, phase: Phase, player: Player, optimizer: Any, rate: float, batch: Batch
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Train one player for one step. Return its losses, and the norm of the gradient if it is computed."""
        losses = self.losing(partial(player.loss, batch))
        self.bare.zero_grad()  # for all players, as a loss also leaves gradients in the other players' weights
        self.fabric.backward(losses["loss"])
        norm = None
        if self.config.clip_norm or phase.watch:
            norm = self.fabric.clip_gradients(
                self.losing, optimizer, max_norm=self.config.clip_norm or math.inf, error_if_nonfinite=False
            )
        for group in optimizer.param_groups:
            group["lr"] = player.lr * rate
        optimizer.step()
        return losses, norm

    def _rate(self, phase: Phase) -> float:
        if self.config.schedule == "cosine":
            done = self.position.in_phase / (phase.epochs * self.steps_per_epoch)
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        return 1.0

    # --- checks ---

    def check(self) -> None:
        """Read the losses of the steps since the last check. Raises Diverged for the first one that is not finite."""
        for step, losses in self.unread.read():
            phase = self.phases[self.position.phase]
            for player in phase.players:
                if not math.isfinite(losses[f"{_prefix(phase, player)}loss"]):
                    raise self._diverged(step, phase, player, losses)
            self.counted += 1
            _add(self.sums, losses)
            if phase.watch and self.watched:
                _add(self.window, losses)

    def _diverged(self, step: int, phase: Phase, player: Player, losses: Mapping[str, float]) -> Diverged:
        prefix = _prefix(phase, player)
        values = ", ".join(
            f"{name.removeprefix(prefix)} {value:g}" for name, value in losses.items() if name.startswith(prefix)
        )
        return Diverged(
            f"loss: not finite at step {step}, phase {phase.name!r}, player {player.name!r} ({values}); {self._kept()}. "
            "Try a smaller lr or clip_norm.",
            step,
        )

    def checkpoint(self, path: Path | None = None) -> None:
        """Write the state to a file, by default the run's checkpoint. Raises Diverged if a loss since the last check is not finite."""
        self.check()
        super().checkpoint(path)

    def restore(self, path: Path | None = None) -> None:
        """Restore the state from a file, by default the run's checkpoint. Losses that were not read are forgotten."""
        super().restore(path)
        self.unread.steps.clear()

    # --- all steps ---

    def run_phases(self, stop_after: int | None = None) -> None:
        """Train all phases from the current position. At the end of each epoch write a checkpoint, test losses and samples."""
        last = None if stop_after is None else self.position.step + stop_after
        with (
            finish_step() as interrupted,
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
                            f"stopped at step {self.position.step}; `{command('resume', self.run.folder)}` continues from there"
                        )
                    if self.position.step == last:
                        return
                self._next_phase()
        if self.watched:
            if not (self.run.folder / METRICS).exists() and (chosen := choose_average(self)) is not None:
                self._log(chosen)
                self.checkpoint()
            save_figures(self)

    def _epoch(self, phase: Phase, progress: Progress, stop: Callable[[], bool]) -> None:
        """Train to the end of the epoch, or until `stop` returns true. Write a checkpoint in both cases."""
        self.sums, self.counted = {}, 0
        began = time.perf_counter()
        size = self.batch_size * self.fabric.world_size
        while True:
            try:
                losses = self._whole_step()
                inspected, ended = self._is_inspected(phase), self.position.in_phase % self.steps_per_epoch == 0
                stopped = not ended and stop()
                if inspected or ended or stopped:
                    self.check()
            except Diverged as error:
                if not self._roll_back(phase, [Alarm("not finite", str(error), True)], error.step, progress):
                    raise
                continue
            progress.advance(size, losses)
            if inspected and self._inspect(phase, progress):
                continue
            if ended:
                seconds = time.perf_counter() - began
                self.seconds += seconds
                means = {name: value / self.counted for name, value in self.sums.items()}
                self._end_epoch(phase, means, self.counted * size / seconds, progress)
                return
            if stopped:
                self.seconds += time.perf_counter() - began
                self.checkpoint()
                return

    def _whole_step(self) -> dict[str, Tensor]:
        """Train for one step. If it fails because an earlier loss was not finite, Diverged is raised instead."""
        try:
            return self.step(self.batch())
        except Exception:
            self.check()
            raise

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
        if self.watched:
            with self.average.applied():
                record |= test_record(self)
                if epoch & (epoch - 1) == 0 or epoch == phase.epochs:  # powers of two, and the last epoch
                    save_sheet(self, phase.name, epoch)
            self._log(record)
            progress.epoch(record)
            self.curves.grown()
        self.checkpoint()

    # --- watching ---

    def _is_inspected(self, phase: Phase) -> bool:
        """Return whether the phase's watch inspects the training after this step, which it does every `every` steps."""
        return phase.watch is not None and self.watched and self.position.in_phase % phase.watch.every == 0

    def _inspect(self, phase: Phase, progress: Progress) -> bool:
        """Let the phase's watch inspect the training, and log its figures. Return whether training was rolled back."""
        watch, step = phase.watch, self.position.step
        assert watch is not None
        inspection = watch.look(step, {name: value / watch.every for name, value in self.window.items()})
        self.window = {}
        self._log({"step": step, "phase": phase.name, "watch": inspection.record})
        if self._roll_back(phase, [alarm for alarm in inspection.alarms if alarm.severe], step, progress):
            return True
        for alarm in inspection.alarms:
            self._alarm(step, alarm, progress)
        if watch.rollbacks and not inspection.alarms:
            self.checkpoint(self.run.good)
        return False

    def _alarm(self, step: int, alarm: Alarm, progress: Progress, gone_back_to: int | None = None) -> None:
        """Report an alarm on the terminal and in the file of alarms, which a rollback does not shorten."""
        record = {"step": step, "alarm": alarm.name, "detail": alarm.detail, "gone_back_to": gone_back_to}
        with (self.run.folder / ALARMS).open("a") as file:
            file.write(json.dumps(record) + "\n")
        back = "" if gone_back_to is None else f"; rolled back to step {gone_back_to}"
        progress.say(f"step {step}: {alarm.name}: {alarm.detail}{back}")

    def _roll_back(self, phase: Phase, alarms: Sequence[Alarm], step: int, progress: Progress) -> bool:
        """Restore the last good state and continue with another seed. Return False if there is no alarm, no such state or no rollback left.

        `step` is the step of the alarms, which can be earlier than the current one.
        """
        times = self.position.rolled_back
        if not alarms or phase.watch is None or times >= phase.watch.rollbacks or not self.run.good.exists():
            return False
        self.restore(self.run.good)
        for alarm in alarms:
            self._alarm(step, alarm, progress, self.position.step)
        self.position.rolled_back = times + 1
        self.generator.manual_seed(self.seed(self.position.step, self.position.rolled_back))
        self._cut_log()
        progress.phase(phase.name, self.position.in_phase, phase.epochs * self.steps_per_epoch)
        return True

    # --- the log ---

    def _log(self, record: Mapping[str, Any]) -> None:
        with (self.run.folder / LOG).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _cut_log(self) -> None:
        """Remove the log's records after the current step."""
        log = self.run.folder / LOG
        if log.exists() and self.fabric.is_global_zero:
            records = [record for record in read_log(log) if record["step"] <= self.position.step]
            with replacing(log) as path:
                path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def _prefix(phase: Phase, player: Player) -> str:
    """Return the first part of the names of a player's losses. It is empty if the phase has one player."""
    return f"{player.name}/" if len(phase.players) > 1 else ""


def _add(sums: dict[str, float], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value
