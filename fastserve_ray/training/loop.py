"""The worker's training loop. It knows neither Ray nor storage: hooks carry everything in and out.

The loss of a step is the sum over the global batch divided by the global count of labels, whatever the number of
workers, the accumulation and the size of the last batch: every split trains as one process would.
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.errors import DataError
from fastserve_ray.plan.pipeline import idle_warning
from fastserve_ray.tasks.evaluate import to_device
from fastserve_ray.tasks.packed import MIXES_DOCUMENTS, keeps_documents_apart
from fastserve_ray.tasks.table import load_task
from fastserve_ray.training.balance.balancer import Balancer
from fastserve_ray.training.batches import BatchPlan
from fastserve_ray.training.checkpoint.reader import CheckpointReader
from fastserve_ray.training.checkpoint.slices import Snapshot
from fastserve_ray.training.evaluation import evaluate_together
from fastserve_ray.training.failures import diverged, memory_errors
from fastserve_ray.training.hooks import Hooks, TrainResult, train_result
from fastserve_ray.training.job import TrainJob, build_model
from fastserve_ray.training.precision import ScalesLoss, precision_warning, refuse_precision
from fastserve_ray.training.schedule import learning_rate
from fastserve_ray.training.speed import MemoryMeter, Speedometer, flops_per_token, peak_flops
from fastserve_ray.training.strategies.offload import refuse_unavailable
from fastserve_ray.training.strategies.protocol import MeasuredStrategy, MicroBatch
from fastserve_ray.training.strategies.table import make_strategy
from fastserve_ray.training.tensor.limits import refuse_uncuttable
from fastserve_ray.training.world import World

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_BAD_LOSSES = 20
"""fp16: steps in a row whose loss is no number, each left out, before training counts as diverged."""


class TrainingLoop:
    """One worker's share of a training run. Making it loads data and model and talks to no other worker.

    Raises:
        DataError: there are no training rows.
        ModelError: the model cannot be loaded or built.
    """

    def __init__(self, job: TrainJob, world: World | None = None, hooks: Hooks | None = None) -> None:
        self.train = job.train
        self.world = world or World()
        self.hooks = hooks or Hooks()
        self.dataset = PreparedDataset.open(job.dataset)
        if not len(self.dataset.train):
            raise DataError("there are no training rows", key="data.train")
        self.task = load_task(job.model.task)
        self.model, self.tokenizer = build_model(job, self.dataset)
        refuse_unavailable(self.train.parallel)
        refuse_uncuttable(self.model.config, self.train.parallel.tensor)
        self.plan = BatchPlan(len(self.dataset.train), self.train.batch_size, self.train.seed)
        self.total_steps = job.total_steps(len(self.dataset.train))
        self.strategy = make_strategy(self.train.parallel)
        self._num_bad_losses = 0
        self.memory = MemoryMeter(self.world.device)
        self.balancer: Balancer | None = None
        if self.train.balance == "measured" and self.world.data_size > 1:
            rank, size = self.world.data_rank, self.world.data_size
            self.balancer = Balancer(self.train.batch_size, rank, size, self.world.sum)
        self.metrics: dict[str, float] = {}
        self.checkpoint_seconds = 0.0

    def run(self) -> TrainResult:
        """Train from the start or from ``hooks.resume_from`` to the end.

        Raises:
            TrainingError: the loss is no longer a number, or memory ended.
        """
        with memory_errors(self.train):
            refuse_precision(self.train.precision, self.world.device)
            self._warn_about_settings()
            self._warn_about_packing()
            sample, _ = self._collate(np.zeros(1, dtype=np.int64))
            flops = flops_per_token(self.model, self.dataset.info.max_length)
            speed = Speedometer(flops, peak_flops(self.world, self.train.precision))
            self.strategy.setup(self.model, self.train, self.world, self.task, sample)
            first_step = self._resume()
            return self._run_from(first_step, speed)

    def _run_from(self, first_step: int, speed: Speedometer) -> TrainResult:
        started, number = perf_counter(), first_step
        for number in range(first_step + 1, self.total_steps + 1):
            step_started = perf_counter()
            loss, step_tokens = self._train_step(number - 1)
            seconds = perf_counter() - step_started
            self._rebalance(number, seconds)
            speed.add(seconds, step_tokens)
            self.metrics |= {"train_loss": loss, **speed.metrics(), **self._scaling()}
            self._report(number, loss, speed)
            is_stopped = self.hooks.should_stop()
            if (is_stopped or self._is_evaluated(number)) and self._evaluate_and_ask(number):
                break
            if is_stopped:
                break
            self._checkpoint(number)
        self.metrics |= {"seconds": perf_counter() - started, "checkpoint_seconds": self.checkpoint_seconds}
        self.model.eval()
        return train_result(self.model, self.tokenizer, self.strategy.full_state_dict(), self.metrics, number)

    def _train_step(self, step: int) -> tuple[float, float]:
        """Optimizer step ``step`` (from 0); the mean loss and the input tokens over the global batch."""
        torch.manual_seed(_step_seed(self.train.seed, step, self.world.data_rank))
        micro_batches, count, tokens = self._micro_batches(step)
        rate = learning_rate(self.train, step, self.total_steps)
        loss = self.world.sum(self.strategy.train_step(micro_batches, rate))[0] / count
        if not math.isfinite(loss):
            self._refuse_or_skip(step, loss, rate)
        else:
            self._num_bad_losses = 0
        return loss, tokens

    def _refuse_or_skip(self, step: int, loss: float, rate: float) -> None:
        """A strategy that scales the loss has left the step out, which helps for some steps."""
        self._num_bad_losses += 1
        if not self._scaling() or self._num_bad_losses > MAX_BAD_LOSSES:
            raise diverged(step + 1, self.total_steps, loss, rate)

    def _scaling(self) -> dict[str, float]:
        return self.strategy.scaling() if isinstance(self.strategy, ScalesLoss) else {}

    def _micro_batches(self, step: int) -> tuple[list[MicroBatch], float, float]:
        """This worker's micro batches, and the labels and input tokens of the global batch."""
        rank, size, accumulation = self.world.data_rank, self.world.data_size, self.train.passes_per_step
        shares = None if self.balancer is None else self.balancer.shares
        parts = self.plan.micro_batches(step, rank=rank, size=size, accumulation=accumulation, shares=shares)
        self._num_rows = sum(len(part) for part in parts)
        draw = (self.train.seed, step // self.plan.steps_per_epoch)
        batches = [self._collate(part, draw) for part in parts]
        real = [batch for batch, is_real in batches if is_real]
        count, tokens = self.world.sum(
            sum(self.task.count(batch) for batch in real), sum(int(batch["attention_mask"].sum()) for batch in real)
        )
        return [MicroBatch(batch, 1.0 / count if is_real else 0.0) for batch, is_real in batches], count, tokens

    def _collate(self, indices: NDArray[np.int64], draw: tuple[int, ...] = ()) -> tuple[dict[str, torch.Tensor], bool]:
        """A micro batch on the device; an empty share becomes one row that counts for nothing, so that every worker
        takes part in every exchange."""
        rows = [{**self.dataset.train[int(index)], "draw": draw} for index in indices]
        batch = self.task.collate(rows or [self.dataset.train[0]], self.dataset.info.pad_token_id)
        return to_device(batch, self.world.device), bool(rows)

    def _rebalance(self, number: int, seconds: float) -> None:
        if self.balancer is None:
            return
        assert isinstance(self.strategy, MeasuredStrategy), self.strategy
        self.balancer.observe(self._num_rows, self.strategy.computing_seconds, seconds)
        change = self.balancer.review(number)
        if change is not None and self.hooks.on_balance is not None:
            self.hooks.on_balance(number, change)

    def _is_evaluated(self, number: int) -> bool:
        every = self.train.eval_every_steps
        is_asked = every is not None and number % every == 0
        return is_asked or number == self.total_steps or number % self.plan.steps_per_epoch == 0

    def _evaluate_and_ask(self, number: int) -> bool:
        self.metrics |= self.evaluate()
        return self.hooks.on_evaluate(number, dict(self.metrics))

    def evaluate(self) -> dict[str, float]:
        """``eval_*`` over all validation rows, the same on every worker."""
        return evaluate_together(
            self.strategy,
            self.task,
            self.dataset.validation,
            world=self.world,
            batch_size=max(1, self.train.rows_per_pass),
            pad_token_id=self.dataset.info.pad_token_id,
        )

    def _report(self, number: int, loss: float, speed: Speedometer) -> None:
        if self.hooks.on_step is not None:
            self.hooks.on_step(number, loss)
        if number % self.train.logging_steps == 0 or number in (1, self.total_steps):
            self.hooks.progress(
                step=number,
                total=self.total_steps,
                loss=loss,
                learning_rate=learning_rate(self.train, number - 1, self.total_steps),
                memory_bytes=self.memory.bytes(),
                **speed.metrics(),
                **self._scaling(),
            )

    def _checkpoint(self, number: int) -> None:
        is_due = number % self.train.checkpoint.every_steps == 0 and number < self.total_steps
        if is_due and self.hooks.on_checkpoint is not None:
            started = perf_counter()
            self.hooks.on_checkpoint(number, self._snapshot(number))
            self.checkpoint_seconds += perf_counter() - started

    def _snapshot(self, number: int) -> Snapshot:
        """After ``number`` steps. Order of rows, dropout and learning rate follow from the step."""
        state = {**self.strategy.state(), "step": number}
        if self.balancer is not None:
            state["shares"] = list(self.balancer.shares)
        return Snapshot.take(self.strategy.slices(), state, rank=self.world.rank, num_ranks=self.world.size)

    def _resume(self) -> int:
        """How many steps are done."""
        if self.hooks.resume_from is None:
            return 0
        checkpoint = CheckpointReader(self.hooks.resume_from)
        self.strategy.load(checkpoint)
        if self.balancer is not None:
            self.balancer.restore(checkpoint.state.get("shares", []))
        return int(checkpoint.state["step"])

    def _warn_about_packing(self) -> None:
        is_packed = "lengths" in self.dataset.train[0]
        if is_packed and self.hooks.warn is not None and self.world.is_first and not keeps_documents_apart(self.model):
            self.hooks.warn(MIXES_DOCUMENTS)

    def _warn_about_settings(self) -> None:
        for warning in (precision_warning(self.train.precision, self.world.device), idle_warning(self.train)):
            if warning is not None and self.hooks.warn is not None and self.world.is_first:
                self.hooks.warn(warning)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seeds dropout anew in every step, so that a resumed run draws what an uninterrupted one would have drawn. Ranks
    that see the same rows draw the same."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
