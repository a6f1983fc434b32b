"""transformers' ``generate`` on one padded batch: it goes on until its longest request is done."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.peers import adaptor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.peers.workload import Asked


class HuggingFace:
    PACKAGES: tuple[str, ...] = ("torch", "transformers")

    def convert(self, source: Path, target: Path, precision: str) -> None:
        shutil.copytree(source, target, dirs_exist_ok=True)

    def load(self, folder: Path, threads: int, precision: str) -> adaptor.Engine:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        return _Engine(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


class _Streamer:
    """Hears of the prompts first, then of one token for each row at a time."""

    def __init__(self, asked: Sequence[Asked], watch: adaptor.Stopwatch) -> None:
        self._lengths = [request.length for request in asked]
        self._watch = watch
        self._num_tokens = -1

    def put(self, tokens: torch.Tensor) -> None:
        self._num_tokens += 1
        if self._num_tokens == 0:
            return
        for number, (token, length) in enumerate(zip(tokens.tolist(), self._lengths, strict=True)):
            if self._num_tokens <= length:
                self._watch.saw(number, token)

    def end(self) -> None:
        pass


class _Engine:
    def __init__(self, model: Any) -> None:
        self._model = model

    def run(self, asked: Sequence[Asked], watch: adaptor.Stopwatch) -> None:
        width = max(len(request.prompt) for request in asked)
        ids = torch.tensor([[0] * (width - len(request.prompt)) + list(request.prompt) for request in asked])
        mask = torch.tensor([[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in asked])
        self._model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max(request.length for request in asked),
            eos_token_id=None,
            pad_token_id=0,
            streamer=_Streamer(asked, watch),
        )


if __name__ == "__main__":
    adaptor.main(HuggingFace())
