"""Which keys of the spec decide which stage's result.

What only changes speed, place or messages is left out: ``storage``, ``cluster``, most of ``serve``, logging,
checkpoints, retries, the resources of a worker. The number of workers and the ZeRO stage stay in for a trained model:
they change the order of sums, and with it the last digits of every weight. What a search finds and what a checkpoint
holds does not hang on last digits: there they are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.spec.serve import ServeSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

    from fastserve_ray.spec.run import RunSpec

_MODEL = ("model.task", "model.base", "model.revision", "model.config", "model.num_labels", "model.trust_remote_code")
_DATA_MODEL = (
    "model.task",
    "model.base",
    "model.revision",
    "model.tokenizer",
    "model.config.vocab_size",
    "model.chat_template",
)
_TRAIN_SPEED = frozenset({"checkpoint", "logging_steps", "max_failures", "resources_per_worker", "eval_every_steps"})
_LAYOUT = frozenset(
    {"parallel", "balance", "micro_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"}
)
"""Keys of ``train`` that decide who computes what, and change results by rounding alone."""
_TUNE_SPEED = frozenset({"max_concurrent_trials"})
_ENGINE = ("serve.engine.kind", "serve.engine.dtype")


def stage_settings(spec: RunSpec, stage: str) -> dict[str, JsonValue]:
    """The keys that decide ``stage``, by dotted path, with defaults filled in."""
    data = spec.model_dump(mode="json")
    return dict(_SETTINGS[stage](data))


def resume_settings(spec: RunSpec) -> dict[str, JsonValue]:
    """The keys that decide what ``train`` learns, however it is spread: a checkpoint of the same ones can be gone on
    from."""
    return dict(_learning(spec.model_dump(mode="json")))


def _data(data: dict[str, Any]) -> Iterator[tuple[str, JsonValue]]:
    yield from _pick(data, _DATA_MODEL)
    if data["model"]["task"] == "masked-lm":  # its type says whether there are pairs
        yield from _pick(data, ("model.config.model_type", "model.trust_remote_code"))
    yield from _section(data, "data")


def _import(data: dict[str, Any]) -> Iterator[tuple[str, JsonValue]]:
    yield from _pick(data, _MODEL)


def _train(data: dict[str, Any]) -> Iterator[tuple[str, JsonValue]]:
    yield from _pick(data, _MODEL)
    yield from _section(data, "train", leave_out=_TRAIN_SPEED)


def _learning(data: dict[str, Any]) -> Iterator[tuple[str, JsonValue]]:
    yield from _pick(data, _MODEL)
    yield from _section(data, "train", leave_out=_TRAIN_SPEED | _LAYOUT)


def _tune(data: dict[str, Any]) -> Iterator[tuple[str, JsonValue]]:
    yield from _learning(data)
    yield from _section(data, "tune", leave_out=_TUNE_SPEED)
    if any(key.startswith("compress.") for key in data["tune"]["parameters"]):
        yield "compress", data["compress"]


def _compress(data: dict[str, Any]) -> Iterator[tuple[str, JsonValue]]:
    yield "model.task", data["model"]["task"]
    yield "compress", data["compress"]


def _verify(data: dict[str, Any]) -> Iterator[tuple[str, JsonValue]]:
    """The engine counts: its type, number format and shards are what is verified, the defaults in a file without
    ``serve``."""
    yield "model.task", data["model"]["task"]
    yield from _section(data, "verify")
    yield from _pick({"serve": data["serve"] or ServeSpec().model_dump(mode="json")}, _ENGINE)
    if data["serve"] and data["serve"]["shards"]["tensor"] > 1:
        yield "serve.shards.tensor", data["serve"]["shards"]["tensor"]


def _serve(data: dict[str, Any]) -> Iterator[tuple[str, JsonValue]]:
    yield from _section(data, "serve")


_SETTINGS = {
    "data": _data,
    "import": _import,
    "train": _train,
    "tune": _tune,
    "compress": _compress,
    "verify": _verify,
    "serve": _serve,
}


def _section(
    data: dict[str, Any], name: str, *, leave_out: frozenset[str] = frozenset()
) -> Iterator[tuple[str, JsonValue]]:
    for key, value in (data[name] or {}).items():
        if key not in leave_out:
            yield f"{name}.{key}", value


def _pick(data: dict[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, JsonValue]]:
    for key in keys:
        value: Any = data
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        yield key, value
