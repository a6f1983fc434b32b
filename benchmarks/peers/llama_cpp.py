"""llama.cpp through llama-cpp-python's C bindings: all prompts in one call, then a token for each request a call.

Its Python class runs one request at a time; this does what llama.cpp's server does with requests that come together.
The token is the largest logit, found by NumPy; nothing is turned into text.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.peers import adaptor
from benchmarks.peers.gguf import write_gguf
from benchmarks.peers.workload import MAX_MODEL_LEN, MAX_NUM_SEQS, Asked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MODEL_FILE = "model.gguf"
LARGEST_CALL = MAX_NUM_SEQS * MAX_MODEL_LEN


class LlamaCpp:
    PACKAGES: tuple[str, ...] = ("llama-cpp-python",)

    def convert(self, source: Path, target: Path, precision: str) -> None:
        write_gguf(source, target / MODEL_FILE, precision)

    def load(self, folder: Path, threads: int, precision: str) -> adaptor.Engine:
        library = import_module("llama_cpp")
        library.llama_backend_init()
        model = library.llama_model_load_from_file(
            str(folder / MODEL_FILE).encode(), library.llama_model_default_params()
        )
        settings = library.llama_context_default_params()
        settings.n_ctx = MAX_NUM_SEQS * MAX_MODEL_LEN
        settings.n_batch = LARGEST_CALL
        settings.n_seq_max = MAX_NUM_SEQS
        settings.n_threads = settings.n_threads_batch = threads
        return _Engine(library, model, library.llama_init_from_model(model, settings))


class _Engine:
    def __init__(self, library: Any, model: Any, context: Any) -> None:
        self._library = library
        self._context = context
        self._num_vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
        self._batch = library.llama_batch_init(LARGEST_CALL, 0, 1)

    def run(self, asked: Sequence[Asked], watch: adaptor.Stopwatch) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        tokens = self._decode(
            (number, place, token, place == len(request.prompt) - 1)
            for number, request in enumerate(asked)
            for place, token in enumerate(request.prompt)
        )
        for step in range(max(request.length for request in asked)):
            for number, token in tokens.items():
                watch.saw(number, token)
            going_on = [number for number in tokens if step + 1 < asked[number].length]
            if not going_on:
                return
            tokens = self._decode(
                (number, len(asked[number].prompt) + step, tokens[number], True) for number in going_on
            )

    def _decode(self, rows: Iterable[tuple[int, int, int, bool]]) -> dict[int, int]:
        """Rows (request, position, token, whether its logits are wanted) to the next token of requests."""
        batch, wanted = self._batch, {}
        batch.n_tokens = 0
        for at, (number, position, token, is_wanted) in enumerate(rows):
            batch.token[at], batch.pos[at] = token, position
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, number
            batch.logits[at] = is_wanted
            batch.n_tokens += 1
            if is_wanted:
                wanted[number] = at
        status = self._library.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        return {number: self._best(at) for number, at in wanted.items()}

    def _best(self, at: int) -> int:
        logits = self._library.llama_get_logits_ith(self._context, at)
        return int(import_module("numpy").ctypeslib.as_array(logits, (self._num_vocabulary,)).argmax())


if __name__ == "__main__":
    adaptor.main(LlamaCpp())
