"""The tasks by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.lazy import LazyTable

if TYPE_CHECKING:
    from fastserve_ray.tasks.protocol import Task

TASKS = LazyTable(
    "task",
    "model.task",
    {
        "text-generation": "fastserve_ray.tasks.text_generation:TextGeneration",
        "masked-lm": "fastserve_ray.tasks.masked_lm:MaskedLM",
        "text-classification": "fastserve_ray.tasks.text_classification:TextClassification",
    },
)


def load_task(name: str) -> Task:
    """The task behind ``name``.

    Raises:
        UnknownNameError: no such task.
    """
    task: Task = TASKS.load(name)()
    return task
