"""What a stage holds: weights as ``plan`` says, and activations by schedule."""

from __future__ import annotations

import gc
import threading
from contextlib import nullcontext
from queue import Queue
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoConfig

from fastserve_ray.plan.architecture import read_architecture
from fastserve_ray.plan.pipeline import stage_sizes
from fastserve_ray.tasks.table import load_task
from fastserve_ray.training.pipeline.cutting import held_parameters
from fastserve_ray.training.pipeline.stage import Stage
from fastserve_ray.training.strategies.protocol import MicroBatch
from tests.training.pipeline.test_cutting import MODELS, SIZES, make, padded_rows, stages_of

if TYPE_CHECKING:
    from fastserve_ray.training.pipeline.channel import Channel
    from fastserve_ray.training.pipeline.schedules import Schedule

NUM_STAGES = 4


class ThreadPipe:
    """A channel between two threads."""

    def __init__(self) -> None:
        self._tensors: Queue[torch.Tensor] = Queue()

    def send(self, tensor: torch.Tensor) -> None:
        self._tensors.put(tensor.detach().clone())

    def receive(self, shape: tuple[int, ...]) -> torch.Tensor:
        return self._tensors.get(timeout=60)

    def flush(self) -> None:
        pass


class Ends:
    """Takes from one channel and gives to another."""

    def __init__(self, source: ThreadPipe, target: ThreadPipe) -> None:
        self.receive, self.send, self.flush = source.receive, target.send, target.flush


class Meter:
    """Bytes that autograd keeps for backward passes, but for weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._weights = {parameter.data_ptr() for parameter in held_parameters(model)}
        self.now = self.peak = 0

    def pack(self, tensor: torch.Tensor) -> Kept:
        return Kept(tensor, self, 0 if tensor.data_ptr() in self._weights else tensor.nbytes)


class Kept:
    """A tensor until the graph lets it go."""

    def __init__(self, tensor: torch.Tensor, meter: Meter, size: int) -> None:
        self.tensor, self._meter, self._size = tensor, meter, size
        meter.now += size
        meter.peak = max(meter.peak, meter.now)

    def __del__(self) -> None:
        self._meter.now -= self._size


def peaks(schedule: Schedule, number: int) -> list[int]:
    """Bytes kept by each stage at most, over ``number`` equal micro batches."""
    task = load_task("text-generation")
    batch = task.collate(padded_rows()[:1], 0)
    micro_batches = [MicroBatch(batch, 1.0)] * number
    parts = stages_of(make("gpt2").train(), NUM_STAGES)
    down, up = ([ThreadPipe() for _ in range(NUM_STAGES + 1)] for _ in range(2))
    meters = [Meter(part) for part in parts]

    def run(stage: int) -> None:
        channels: Any = Ends(down[stage], down[stage + 1]), Ends(up[stage + 1], up[stage])
        made: tuple[Channel, Channel] = channels
        runner = Stage(parts[stage], task, made, number=stage, num_stages=NUM_STAGES, autocast=nullcontext)
        with torch.autograd.graph.saved_tensors_hooks(meters[stage].pack, lambda kept: kept.tensor):
            runner.train(micro_batches, schedule)

    threads = [threading.Thread(target=run, args=(stage,)) for stage in range(NUM_STAGES)]
    gc.disable()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        gc.enable()
    assert [meter.now for meter in meters] == [0] * NUM_STAGES
    return [meter.peak for meter in meters]


def test_1f1b_keeps_activations_of_at_most_as_many_micro_batches_as_stages() -> None:
    """The first stage of four keeps four of nine, the last keeps one; gpipe keeps nine. Nothing waits for the garbage
    collector."""
    one = peaks("gpipe", 1)
    assert min(one) > 0
    assert peaks("gpipe", 9) == [9 * size for size in one]
    assert peaks("1f1b", 9) == [(NUM_STAGES - stage) * size for stage, size in enumerate(one)]


@pytest.mark.parametrize("num_stages", [2, 3, 4])
@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-tied", "bert"])
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_stages_hold_as_many_parameters_as_planned(name: str, num_stages: int, tensor: int) -> None:
    """Four ranks share Llama's two key and value heads."""
    classifies = name == "bert"
    config = AutoConfig.for_model(**{**SIZES, **MODELS[name]}).to_dict()
    architecture = read_architecture(config)
    assert architecture is not None
    task = "text-classification" if classifies else "text-generation"
    planned = stage_sizes(architecture, task, num_stages, tensor=tensor)
    parts = stages_of(make(name, classifies=classifies), num_stages, tensor=tensor)
    assert [size.num_parameters for size in planned] == [
        sum(parameter.numel() for parameter in held_parameters(part)) for part in parts
    ]
