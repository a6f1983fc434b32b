"""The worker's training loop. It knows neither Ray nor files: hooks carry everything in and out.

The loss of a step is the sum over the global batch divided by the global count of labels, whatever the number of
workers, the accumulation and the size of the last batch: every split trains as one process would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

import numpy as np
import torch

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.errors import TrainingError
from fastserve_ray.tasks.evaluate import to_device
from fastserve_ray.tasks.protocol import Row
from fastserve_ray.tasks.table import load_task
from fastserve_ray.training.batches import BatchPlan
from fastserve_ray.training.hooks import Hooks, TrainResult
from fastserve_ray.training.job import TrainJob, build_model
from fastserve_ray.training.precision import precision_warning
from fastserve_ray.training.schedule import learning_rate
from fastserve_ray.training.strategies.table import make_strategy
from fastserve_ray.training.world import World

STEP_FILE = "step.txt"


class TrainingLoop:
    """One worker's share of a training run."""

    def __init__(self, job: TrainJob, world: World | None = None, hooks: Hooks | None = None) -> None:
        self.job = job
        self.train = job.train
        self.world = world or World()
        self.hooks = hooks or Hooks()
        self.dataset = PreparedDataset.open(job.dataset)
        self.task = load_task(job.model.task)
        self.model, self.tokenizer = build_model(job, self.dataset)
        self.plan = BatchPlan(len(self.dataset.train), self.train.batch_size, job.data_seed)
        self.total_steps = job.total_steps(len(self.dataset.train))
        self.strategy = make_strategy(self.train.parallel)
        self.strategy.setup(self.model, self.train, self.world)
        self.metrics: dict[str, float] = {}

    def run(self) -> TrainResult:
        """Train from the start or from ``hooks.resume_from`` to the end.

        Raises:
            TrainingError: the loss is no longer a number.
        """
        self._warn_about_precision()
        first_step = self._resume()
        started, tokens, last_step = perf_counter(), 0.0, first_step
        for step in range(first_step, self.total_steps):
            loss, step_tokens = self._train_step(step)
            tokens += step_tokens
            last_step = step + 1
            self._report(last_step, loss, tokens / (perf_counter() - started))
            self.metrics["train_loss"] = loss
            if self._is_evaluated(last_step) and self._evaluate_and_ask(last_step):
                break
            self._checkpoint(last_step)
        seconds = perf_counter() - started
        self.metrics |= {"seconds": seconds, "tokens_per_second": tokens / seconds if seconds else 0.0}
        return TrainResult(self.model, self.tokenizer, self.strategy.full_state_dict(), self.metrics, last_step)

    def _train_step(self, step: int) -> tuple[float, float]:
        """One optimizer step; the mean loss and the input tokens over the global batch."""
        torch.manual_seed(_step_seed(self.train.seed, step, self.world.rank))
        self.model.train()
        accumulation = self.train.gradient_accumulation_steps
        parts = self.plan.micro_batches(step, rank=self.world.rank, size=self.world.size, accumulation=accumulation)
        batches = [self._collate(part) for part in parts]
        own_count = float(sum(self.task.count(batch) for batch, is_real in batches if is_real))
        own_tokens = float(sum(int(batch["attention_mask"].sum()) for batch, is_real in batches if is_real))
        count, tokens = self.world.sum(own_count, own_tokens)
        own_loss = 0.0
        for number, (batch, is_real) in enumerate(batches):
            with self._autocast():
                result = self.task.loss(self.strategy.model, batch)
            weight = self.world.size / count if is_real else 0.0
            self.strategy.backward(result.total * weight, is_last=number == len(batches) - 1)
            own_loss += float(result.total.detach()) if is_real else 0.0
        loss = self.world.sum(own_loss)[0] / count
        if not math.isfinite(loss):
            raise self._diverged(step, loss)
        self.strategy.step(learning_rate(self.train, step, self.total_steps))
        return loss, tokens

    def _collate(self, indices: np.ndarray[Any, Any]) -> tuple[dict[str, torch.Tensor], bool]:
        """A micro batch on the device; an empty share becomes one row that counts for nothing, so that every worker
        takes part in every exchange."""
        rows: Sequence[Row] = [self.dataset.train[int(index)] for index in indices]
        batch = self.task.collate(rows or [self.dataset.train[0]], self.dataset.info.pad_token_id)
        return to_device(batch, self.world.device), bool(rows)

    def evaluate(self) -> dict[str, float]:
        """``eval_*`` over all validation rows; every worker takes a share and as many forward passes."""
        rows = self.dataset.validation
        share = range(self.world.rank, len(rows), self.world.size)
        batch_size = max(1, self.train.micro_batch_size)
        passes = math.ceil(math.ceil(len(rows) / self.world.size) / batch_size)
        sums = [0.0, 0.0, 0.0]
        self.model.eval()
        with torch.no_grad(), self._autocast():
            for number in range(passes):
                chosen = [rows[index] for index in share[number * batch_size : (number + 1) * batch_size]]
                batch = self.task.collate(chosen or [rows[0]], self.dataset.info.pad_token_id)
                result = self.task.loss(self.strategy.model, to_device(batch, self.world.device))
                if chosen:
                    found = (float(result.total), float(result.count), float(result.correct))
                    sums = [a + b for a, b in zip(sums, found, strict=True)]
        total, count, correct = self.world.sum(*sums)
        return self.task.metrics(total, int(count), int(correct))

    def _is_evaluated(self, step: int) -> bool:
        every = self.train.eval_every_steps
        return (
            step == self.total_steps
            or step % self.plan.steps_per_epoch == 0
            or (every is not None and step % every == 0)
        )

    def _evaluate_and_ask(self, step: int) -> bool:
        self.metrics |= self.evaluate()
        return self.hooks.on_evaluate(step, dict(self.metrics))

    def _report(self, step: int, loss: float, tokens_per_second: float) -> None:
        if self.hooks.on_step is not None:
            self.hooks.on_step(step, loss)
        if step % self.train.logging_steps == 0 or step in (1, self.total_steps):
            self.hooks.progress(
                step=step,
                total=self.total_steps,
                loss=loss,
                tokens_per_second=tokens_per_second,
                learning_rate=learning_rate(self.train, step - 1, self.total_steps),
            )

    def _checkpoint(self, step: int) -> None:
        is_due = step % self.train.checkpoint.every_steps == 0 and step < self.total_steps
        if is_due and self.hooks.on_checkpoint is not None:
            self.hooks.on_checkpoint(step, lambda folder: self._write_checkpoint(folder, step))

    def _write_checkpoint(self, folder: Any, step: int) -> None:
        self.strategy.save(folder)
        if self.world.is_first:
            (folder / STEP_FILE).write_text(str(step))

    def _resume(self) -> int:
        """The first step to take."""
        if self.hooks.resume_from is None:
            return 0
        self.strategy.load(self.hooks.resume_from)
        return int((self.hooks.resume_from / STEP_FILE).read_text())

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.train.precision != "bf16" or self.train.parallel.zero is not None:
            return nullcontext()
        return torch.autocast(self.world.device.split(":")[0], dtype=torch.bfloat16)

    def _warn_about_precision(self) -> None:
        warning = precision_warning(self.train.precision, self.world.device)
        if warning is not None and self.hooks.warn is not None and self.world.is_first:
            self.hooks.warn(warning)

    def _diverged(self, step: int, loss: float) -> TrainingError:
        return TrainingError(
            f"the loss became {loss} in step {step + 1} of {self.total_steps}",
            value=f"learning rate {learning_rate(self.train, step, self.total_steps):.3g}",
            key="train.learning_rate",
            hint="try a tenth of it, a longer train.warmup_ratio, or train.max_grad_norm: 1.0",
        )


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seeds dropout anew in every step, so that a resumed run draws what an uninterrupted one would have drawn."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def run_training(job: TrainJob, world: World | None = None, hooks: Hooks | None = None) -> TrainResult:
    """Build everything and train; see ``TrainingLoop``."""
    return TrainingLoop(job, world, hooks).run()
