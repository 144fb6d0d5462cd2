"""The one training loop, for teachers and students: an objective, a data set, an optimizer, a moving average, checkpoints.

Every random draw is a function of (seed, step, global sample index), see random.py: an interrupted run that is resumed
ends with the same weights as one that was not: on CPUs of one kind with as many threads to the bit, else up to rounding. So
does one on more processes.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from distillkac.base import progress
from distillkac.base.memory import in_own_memory
from distillkac.base.random import derive_seed
from distillkac.data import Dataset
from distillkac.runs import checkpoints
from distillkac.runs.device import placed
from distillkac.runs.optim_config import OptimConfig
from distillkac.training import averages, exact_sums, failure, optimizer, resume, sharding, trackers
from distillkac.training.averages import Averages
from distillkac.training.batches import Batch, read_batches
from distillkac.training.compiled import called_as, compile_calls, given_calls
from distillkac.training.ema import EMA
from distillkac.training.learning_rate import learning_rate
from distillkac.training.measuring import Measuring
from distillkac.training.objective import Objective, one_call, updates_of
from distillkac.training.stop_signal import StopSignal


@dataclass(frozen=True)
class Fit:
    """What `fit` returns: the averaged network in eval mode, the steps done, whether that was all of them, and whether
    Ctrl-C or SIGTERM came, which may be as late as the pictures of the last step. ended: why it was over before its last step,
    by --optim.stop; None if it was not."""

    network: nn.Module
    step: int
    finished: bool
    interrupted: bool
    ended: str | None = None


def parts_of_process(optim: OptimConfig, processes: int) -> int:
    """Into how many parts each process cuts its rows of a batch. Raises ValueError if the batch cannot be cut like that."""
    if optim.exact_parts is not None and optim.exact_parts % processes:
        raise ValueError(
            f"optim.exact_parts must be a multiple of the number of processes ({processes}), got {optim.exact_parts}"
        )
    parts = optim.accumulate if optim.exact_parts is None else optim.exact_parts // processes
    if optim.batch_size % (parts * processes):
        raise ValueError(
            f"optim.batch_size must be a multiple of processes times accumulate ({processes} * {parts}), "
            f"got {optim.batch_size}"
        )
    return parts


class Trainer:
    """Fits a network to an objective, from the folder's checkpoint if there is one, and saves there.

    network: module to fit. seed: of data order and anything random inside the network. title: what the progress bar says.
    on_save: called on the main process after every checkpoint with the averaged network, in eval mode. measuring: measures
    that network every optim.measure_every steps.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        dataset: Dataset,
        folder: Path,
        steps: int,
        optim: OptimConfig,
        seed: int,
        accelerator: Accelerator,
        title: str = "train",
        on_save: Callable[[nn.Module, int], None] | None = None,
        measuring: Measuring | None = None,
    ):
        self.parts = parts_of_process(optim, accelerator.num_processes)
        self.objective, self.dataset, self.folder = objective, dataset, folder
        self.steps, self.optim, self.seed, self.title = steps, optim, seed, title
        self.accelerator, self.rows = accelerator, optim.batch_size // (self.parts * accelerator.num_processes)
        self.on_save, self.measuring = on_save, measuring
        self.updates = updates_of(objective)
        self.raw, self.followed = in_own_memory(network), getattr(network, "averaged", network)
        # What the average is returned in: a whole network, also where the trained one is sharded.
        self.averaged = copy.deepcopy(self.followed).eval().requires_grad_(False)
        state = resume.checkpoint(folder, network, self.followed, optim)
        if state is None and accelerator.num_processes > 1:
            resume.check_alike(network)
        sharded = optim.shard and accelerator.num_processes > 1
        # Where a run without a checkpoint starts from; kept until there is one, see `rewind`.
        self.start = resume.start(network, self.followed, averages.names(optim)) if state is None else None
        (network.to(accelerator.device) if sharded else placed(network, accelerator.device)).train()
        if sharded:
            sharding.shard(network, accelerator.num_processes, accelerator.device)
        self.ema, self.averages = EMA(self.followed, optim.ema), Averages(self.followed, optim, steps)
        # All processes have the same gradients, but for sharded ones, which are gathered one at a time.
        self.optimizer = optimizer.build(network, optim, shared=accelerator.num_processes > 1 and not sharded)
        self.step = 0
        if state is not None:
            self._take_up(state)
            if accelerator.is_main_process and not checkpoints.exported(folder, self.step):
                checkpoints.export(folder, self.step, state["model"], state["ema"])
        self.optimizer = accelerator.prepare(self.optimizer)
        # Preparing for evaluation leaves gradients alone: a sharded network exchanges them itself, exact parts are added here.
        self.given = given_calls(network)
        self.network = accelerator.prepare_model(network, evaluation_mode=sharded or optim.exact_parts is not None)
        compile_calls(network, accelerator, optim, one_call=one_call(objective) and self.parts == 1)
        self.prepared = given_calls(network)

    def fit(self) -> Fit:
        """Runs to the last step. On Ctrl-C or SIGTERM the step in progress is finished and saved.

        Raises FloatingPointError if the loss or its gradient is not finite, see failure.py.
        """
        main = self.accelerator.is_main_process
        log = checkpoints.MetricsLog(self.folder, self.step) if main and self.step < self.steps else None
        bar = progress.Bar(
            title=self.title, unit="step", total=self.steps, initial=self.step, main=main, leave=True, seconds=None
        )
        one_thread = exact_sums.one_thread() if self.optim.exact_parts is not None else nullcontext()
        measuring, stopped, ended = self.measuring, False, None
        if measuring is not None and self.step < self.steps:
            measuring.begin(self.folder, self.step, self.accelerator, bar)
        # The caller's network is trained where it stands, and called afterwards as it was before: in its own precision.
        with StopSignal() as stop, torch.random.fork_rng(), one_thread, bar, called_as(self.prepared, self.given):
            batches, updates, since = self.batches(), [], time.perf_counter()
            while self.step < self.steps and not stopped and ended is None:
                updates += self.advance(batches)
                bar.update()
                stopped = self._stopped(stop)
                save = stopped or self.step == self.steps or self.step % self.optim.save_every == 0
                # Whoever stops a run waits for nothing but its checkpoint.
                measure = measuring is not None and measuring.may_fall_on(self.step) and not stopped
                # A checkpoint is always preceded by a report, whose check keeps a diverged state from being saved.
                if save or measure or self.step % self.optim.log_every == 0:
                    self._report(updates, since, log, bar, durable=save or measure)
                    updates = []
                if self.averages.due(self.step):
                    self.averages.snapshot(self.folder, self.step, self.followed, main)
                if measuring is not None and measure:
                    ended = measuring.after(self.step, self._average, self._checkpoint, self._agreed, log)
                if save or ended is not None:
                    self._checkpoint()
                    if main and self.on_save is not None:
                        self.on_save(self.averaged, self.step)
                if not updates:  # what came after their report is no part of the next ones
                    since = time.perf_counter()
            stopped = stopped or self._stopped(stop)
        return Fit(self._average(), self.step, self.step >= self.steps, stopped, ended)

    def failed(self, updates: list[tuple[torch.Tensor, torch.Tensor]]) -> list[bool]:
        """Of each update whether its loss or gradient is not finite, on any process; all must call it."""
        losses = torch.stack([loss for loss, _ in updates])
        norms = torch.stack([sharding.local(norm) for _, norm in updates])
        bad = ~(torch.isfinite(losses) & torch.isfinite(norms))
        return [count > 0 for count in self.accelerator.reduce(bad.float(), "sum").tolist()]

    def rewind(self) -> None:
        """Back to the last checkpoint, or to the start if there is none."""
        state = resume.checkpoint(self.folder, self.raw, self.followed, self.optim) or self.start
        assert state is not None, "the start is kept until there is a checkpoint"
        self._take_up(state)

    def _recorded(self, update: int, loss: float, norm: float) -> FloatingPointError:
        """Runs up to the step of optimizer update `update` again and keeps the state before it, see failure.py.

        loss, norm: of that update on this process. All processes must call it. Returns the error to raise.
        """
        folder, step = self.folder / failure.FOLDER, update // self.updates
        self.rewind()
        batches = self.batches()
        while self.step < step:
            self.advance(batches)
        if self._agreed(not failure.finite(self.raw)):
            return FloatingPointError(failure.unlike(self.folder, step + 1, loss, norm))
        self.save(folder)
        again = self.failed(self.advance(batches))
        if self.accelerator.is_main_process:
            failure.write(folder, step + 1, update, loss, norm, self.seed, self.indices(update), reproduced=any(again))
        rows = failure.rows_not_finite(self.dataset, self.indices(update))
        return FloatingPointError(failure.sentence(folder, step + 1, loss, norm, rows))

    def _average(self) -> nn.Module:
        self.averaged.load_state_dict(sharding.whole(self.ema.state_dict(self.followed)))
        return placed(self.averaged, self.accelerator.device)

    def save(self, folder: Path) -> None:
        """Writes the checkpoint of the current step into `folder`, on the main process; all must call it."""
        average = self._average()
        model, moments = map(sharding.whole, (self.raw.state_dict(), self.optimizer.state_dict()))
        further = self.averages.weights()
        if self.accelerator.is_main_process:
            checkpoints.save(folder, self.step, model, average.state_dict(), moments, self.ema.updates, further)

    def _checkpoint(self) -> None:
        self.save(self.folder)
        self.start = None

    def advance(self, batches: Iterator[Batch]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """One step: (loss, gradient norm before clipping) of each of its updates, as tensors: no GPU waits here."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.optim) * group.get("lr_scale", 1.0)
        # What is random inside the network (dropout) follows from the seed and the step as well.
        torch.manual_seed(derive_seed(self.seed, "network", self.step, self.accelerator.process_index))
        updates = [self._update(batches) for _ in range(self.updates)]
        self.ema.update(self.followed)
        self.averages.update(self.followed)
        self.step += 1
        return updates

    def _update(self, batches: Iterator[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
        if self.optim.exact_parts is not None:
            loss = exact_sums.gradient(
                self.network,
                self.objective,
                batches,
                self.accelerator,
                seed=self.seed,
                parts=self.parts,
                total=self.optim.exact_parts,
            )
        else:
            losses: list[torch.Tensor] = []
            for _ in range(self.parts):
                with self.accelerator.accumulate(self.network):
                    part = failure.check_loss(self.objective(self.network, next(batches)))
                    self.accelerator.backward(part)
                losses.append(part.detach() / self.parts)
            loss = sum(losses[1:], start=losses[0])
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.optim.clip)
        self.optimizer.step()
        self.raw.zero_grad()  # of all parameters, also those that the network gives no optimizer
        return loss, norm

    def indices(self, update: int) -> list[int]:
        """Which data samples the given optimizer update meets, over all processes and micro-batches."""
        size = self.optim.batch_size
        return self.dataset.order(self.seed)(update * size, (update + 1) * size).tolist()

    def batches(self) -> Iterator[Batch]:
        """The batches of this process from the current step on."""
        updates = range(self.step * self.updates, self.steps * self.updates)
        first = self.accelerator.process_index * self.parts
        parts = [range(part * self.rows, (part + 1) * self.rows) for part in range(first, first + self.parts)]
        optim = self.optim
        return read_batches(
            self.dataset, self.seed, updates, optim.batch_size, parts, self.accelerator.device, optim.workers
        )

    def _report(self, updates, since, log, bar, durable) -> None:
        """The log's line on the updates since that time; raises FloatingPointError if one was not finite."""
        failed = self.failed(updates)  # which waits for the device: only now are they made
        rate = len(updates) // self.updates * self.optim.batch_size / (time.perf_counter() - since)
        if any(failed):
            first = failed.index(True)
            update = self.step * self.updates - len(failed) + first
            raise self._recorded(update, *(sharding.local(value).item() for value in updates[first]))
        losses = torch.stack([loss for loss, _ in updates[self.updates - 1 :: self.updates]])
        loss = self.accelerator.reduce(losses.mean(), "mean").item()
        if log is not None:
            line = {
                "loss": loss,
                "lr": learning_rate(self.step - 1, self.steps, self.optim),
                "grad_norm": sharding.whole(updates[-1][1]).item(),
                "samples_per_second": round(rate, 1),
            }
            log.append({"step": self.step, **line}, durable)
            trackers.show(self.accelerator, line, self.step)
            bar.note(f"{rate:.0f} samples/s", loss=f"{loss:.4f}", **(self.measuring.shown() if self.measuring else {}))

    def _take_up(self, state: dict) -> None:
        mine = self.raw.state_dict()
        self.raw.load_state_dict({name: sharding.like(value, mine[name]) for name, value in state["model"].items()})
        self.ema.load(state["ema"], state["ema_updates"])
        self.averages.load(state.get("averages", {}), state["ema_updates"])
        # Rates and decays are those of this run's options, not of the checkpoint.
        moments = {"state": state["optimizer"]["state"], "param_groups": self.optimizer.state_dict()["param_groups"]}
        self.optimizer.load_state_dict(sharding.optimizer_state_like(moments, self.optimizer))
        self.step = state["step"]

    def _stopped(self, stop: "StopSignal") -> bool:
        return self._agreed(stop.requested)

    def _agreed(self, flag: bool) -> bool:
        """Whether any process says so; on several all agree, else some would wait for the others for ever."""
        if self.accelerator.num_processes == 1:
            return flag
        value = torch.tensor(float(flag), device=self.accelerator.device)
        return self.accelerator.reduce(value, "sum").item() > 0
