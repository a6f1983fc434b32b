"""Rules about ``train.adapter``, ``train.freeze`` and ``train.layer_lr_decay``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.adapter import UNMERGED, AdaLoraAdapter, PrefixAdapter, PromptAdapter
from fastserve_ray.spec.checks.model import POSITIONS, integer_of
from fastserve_ray.spec.problems import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.train import TrainSpec

_ADAPTER = ("train", "adapter")
_KIND = (*_ADAPTER, "kind")


def check_adapter(spec: RunSpec) -> Iterator[Finding]:
    """An adapter that fits the task, the strategy and what comes after training."""
    if spec.train is None:
        return
    yield from _parallel(spec.train)
    if spec.train.adapter is None:
        return
    if spec.train.freeze:
        yield Finding(
            ("train", "freeze"),
            "an adapter freezes all weights of the model already",
            ", ".join(spec.train.freeze),
            "either train.adapter or train.freeze",
            uses=(_ADAPTER,),
        )
    yield from _ranks(spec.train)
    if isinstance(spec.train.adapter, UNMERGED):
        yield from _unmerged(spec, spec.train.adapter)


def _parallel(train: TrainSpec) -> Iterator[Finding]:
    parallel = train.parallel
    for name in ("tensor", "pipeline"):
        if getattr(parallel, name) > 1:
            uses = (("train", "parallel", name),)
            if train.adapter is not None:
                yield Finding(
                    _KIND, f"adapters do not go with a model cut by parallel.{name}", train.adapter.kind,
                    "parallel.zero: 3, which splits the frozen weights too", uses=uses,
                )  # fmt: skip
            if train.layer_lr_decay != 1:
                yield Finding(
                    ("train", "layer_lr_decay"), f"does not go with a model cut by parallel.{name}",
                    f"{train.layer_lr_decay:g}", "1, or data parallel", uses=uses,
                )  # fmt: skip


def _ranks(train: TrainSpec) -> Iterator[Finding]:
    adapter = train.adapter
    if not isinstance(adapter, AdaLoraAdapter):
        return
    if adapter.target_r >= adapter.init_r:
        yield Finding(
            (*_ADAPTER, "target_r"),
            f"not less than init_r ({adapter.init_r}), so there is no rank to take away",
            str(adapter.target_r),
            f"at most {adapter.init_r - 1}",
            uses=((*_ADAPTER, "init_r"),),
        )
    if adapter.warmup + adapter.final >= 1:
        yield Finding(
            (*_ADAPTER, "final"),
            f"with warmup ({adapter.warmup:g}) leaves no steps in which ranks change",
            f"{adapter.final:g}",
            "warmup + final < 1",
            uses=((*_ADAPTER, "warmup"),),
        )
    if train.parallel.zero:
        yield Finding(
            _KIND,
            "AdaLoRA judges ranks by whole gradients, which ZeRO splits",
            "adalora",
            "parallel.zero: 0, or adapter.kind: lora",
            uses=(("train", "parallel", "zero"),),
        )


def _unmerged(spec: RunSpec, adapter: PromptAdapter | PrefixAdapter) -> Iterator[Finding]:
    assert spec.train is not None
    mergeable = "lora, adalora or ia3"
    for section, is_there in (("serve", spec.serve is not None), ("compress", bool(spec.compress))):
        if is_there:
            yield Finding(
                _KIND,
                f"a learned {adapter.kind} cannot be merged into the weights, so `{section}` cannot use it",
                adapter.kind,
                f"{mergeable}, or a file without `{section}`",
                uses=((section,),),
            )
    if spec.model.task != "text-generation":
        yield Finding(_KIND, f"not for {spec.model.task}", adapter.kind, mergeable, uses=(("model", "task"),))
    if isinstance(adapter, PrefixAdapter) and spec.train.gradient_checkpointing:
        yield Finding(
            ("train", "gradient_checkpointing"),
            "recomputed layers would not see the learned prefix",
            "true",
            "false with adapter.kind: prefix",
            uses=(_KIND,),
        )
    yield from _positions(spec, adapter)


def _positions(spec: RunSpec, adapter: PromptAdapter | PrefixAdapter) -> Iterator[Finding]:
    found = integer_of(spec.model.config or {}, POSITIONS)
    if found is None or spec.data is None or spec.data.max_length + adapter.num_virtual_tokens <= found[1]:
        return
    yield Finding(
        (*_ADAPTER, "num_virtual_tokens"),
        f"with data.max_length ({spec.data.max_length}) more than model.config.{found[0]} ({found[1]})",
        str(adapter.num_virtual_tokens),
        f"together at most {found[1]}",
        uses=(("data", "max_length"), ("model", "config", found[0])),
    )
