"""What the end of a run needs: worker 0 gathers the whole weights while it still has its own and the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.plan.architecture import Architecture
    from fastserve_ray.spec.train import TrainSpec

_FP32, _HALF = 4, 2


def gathered_bytes(train: TrainSpec, model: Architecture, *, whole: int, held: int = 0) -> int:
    """Bytes on worker 0's device beside its weights and optimizer. Copies lie in host memory: on a CPU with the rest.

    Args:
        whole: parameters of the model.
        held: those that the first stage of a pipeline holds.
    """
    parallel = train.parallel
    is_staged = parallel.pipeline > 1
    width = _HALF if parallel.zero and not is_staged and train.precision != "fp32" else _FP32
    copies = 0 if train.resources_per_worker.GPU > 0 else whole
    if copies and is_staged and parallel.tensor == 1:
        copies -= held  # handed on as they are
    return width * (copies + _moving(model, train))


def _moving(model: Architecture, train: TrainSpec) -> int:
    """Numbers on the way while one of the last matrices is joined, when most copies are there. Of tensor ranks the own
    part, all parts, and the whole; of ZeRO-3 what is received, and the whole. The first stage of a pipeline joins its
    own before those of the others come."""
    tensor = train.parallel.tensor
    if train.parallel.pipeline > 1:
        return 0
    rows = model.intermediate_size if model.has_tied_embeddings else max(model.intermediate_size, model.vocab_size)
    size = rows * model.hidden_size
    joined = size * (2 * tensor + 1) // tensor if tensor > 1 else 0
    return joined + (2 * -(-size // tensor) if train.parallel.zero == 3 else 0)
