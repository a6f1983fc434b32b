"""A model whose layers are in memory only while they compute, for models larger than the memory of a replica.

Each forward pass reads every layer once: while layer k computes, layer k + 1 is on its way. So at most two layers are
held beside what is outside the layers (embeddings, output layer, norms), and a step takes as long as the slower of
reading and computing: tokens a second <= batch * bandwidth / bytes of the layers. Large batches pay for it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from fastserve_ray.models.pieces import Shell

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    import torch

    from fastserve_ray.models.pieces import Outline


class ReadLayer(Protocol):
    """Gives the tensors of a layer, each time anew; called in another thread."""

    def __call__(self, name: str) -> Sequence[torch.Tensor]: ...


class LayerStream:
    """Reads layers in turn, one ahead. Not thread-safe.

    Args:
        read: see `ReadLayer`.
        names: of the layers, in the order in which a pass needs them.
    """

    def __init__(self, read: ReadLayer, names: Sequence[str]) -> None:
        self._read = read
        self._names = names
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._next: tuple[int, Future[Sequence[torch.Tensor]]] | None = None

    def take(self, at: int) -> Sequence[torch.Tensor]:
        """The tensors of layer ``at``, as soon as they are there; the next layer is asked for. After the last layer
        comes the first. What is taken out of turn waits for a read of its own.

        Raises: what reading raises; the next call reads again.
        """
        coming, self._next = self._next, None
        future = coming[1] if coming is not None and coming[0] == at else self._submit(at)
        tensors = future.result()
        following = (at + 1) % len(self._names)
        self._next = following, self._submit(following)
        return tensors

    def close(self) -> None:
        """End the thread."""
        self._next = None
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, at: int) -> Future[Sequence[torch.Tensor]]:
        return self._pool.submit(self._read, self._names[at])


class StreamedLayer(nn.Module):
    """Stands in a model's list of layers for one that has no weights of its own.

    Attributes:
        inner: the layer.
    """

    def __init__(self, outline: Outline, configs: Sequence[Any], at: int, stream: LayerStream) -> None:
        super().__init__()
        self._shell = Shell(outline, configs)
        self._at = at
        self._stream = stream
        self.inner: Any = self._shell.thing
        for name, value in vars(self.inner).items():
            if isinstance(value, str) and not hasattr(self, name):
                setattr(self, name, value)  # such as attention_type, by which some families choose a mask

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._shell.fill(self._stream.take(self._at))
        if hasattr(self.inner, "weights_moved"):
            self.inner.weights_moved()
        try:
            return self.inner(*args, **kwargs)
        finally:
            self._shell.empty()
