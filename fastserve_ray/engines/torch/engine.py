"""The generate engine: continuous batching of any number of requests over one model.

The life of a request: queued by `add_request`; admitted when its worst case fits the KV cache; its prompt is read in
chunks beside the others' decoding; then one token a step, until a stop; its blocks are free in that same step.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from fastserve_ray.engines.protocol import EngineStats, FinishReason, GenerateDelta, GenerateRequest
from fastserve_ray.engines.torch.detokenize import Detokenizer, decoder_of
from fastserve_ray.engines.torch.limits import eos_token_ids
from fastserve_ray.engines.torch.sampling import make_generator, sample
from fastserve_ray.engines.torch.sequence import Sequence
from fastserve_ray.engines.torch.stop import StopMatcher
from fastserve_ray.engines.torch.text import TextStream
from fastserve_ray.engines.torch.validate import check_request

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.runner import Runner
    from fastserve_ray.engines.torch.scheduler import Chunk, Scheduler


class TorchEngine:
    """See `protocol.GenerateEngine` for the contract. Built by `factory.build_generate_engine`."""

    def __init__(self, model: Any, tokenizer: Any, *, scheduler: Scheduler, runner: Runner, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._runner = runner
        self._max_model_len = max_model_len
        self._vocab_size = int(model.config.get_text_config().vocab_size)
        self._eos_ids = eos_token_ids(model, tokenizer)
        self._decode = decoder_of(tokenizer)
        self._special_ids = frozenset(tokenizer.all_special_ids)
        self._arrivals = itertools.count()
        self._num_steps = 0
        self._num_generated_tokens = 0

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    def add_request(self, request: GenerateRequest) -> None:
        check_request(request, vocab_size=self._vocab_size, max_model_len=self._max_model_len, known=self._scheduler)
        room = self._max_model_len - len(request.prompt_token_ids)
        detokenizer = Detokenizer(self._decode, self._special_ids, request.prompt_token_ids)
        sequence = Sequence(
            request,
            arrival=next(self._arrivals),
            max_tokens=min(request.sampling.max_tokens, room),
            text=TextStream(detokenizer, StopMatcher(request.sampling.stop)),
            generator=make_generator(request.sampling),
        )
        self._scheduler.add(sequence)

    def cancel(self, request_id: str) -> None:
        self._scheduler.remove(request_id)

    def has_work(self) -> bool:
        return self._scheduler.has_work()

    def step(self) -> list[GenerateDelta]:
        chunks = self._scheduler.schedule()
        if not chunks:
            return []
        ending, logits = self._runner.run(chunks)
        tokens = sample(logits, [chunk.sequence for chunk in ending])
        return self._postprocess(chunks, ending, tokens)

    def stats(self) -> EngineStats:
        running, waiting = self._scheduler.running.values(), self._scheduler.waiting.values()
        pool = self._scheduler.pool
        return EngineStats(
            num_running=len(running),
            num_waiting=len(waiting),
            num_outstanding_tokens=sum(seq.num_outstanding_tokens for seq in itertools.chain(running, waiting)),
            kv_tokens_used=pool.num_used * pool.block_size,
            kv_tokens_total=pool.num_blocks * pool.block_size,
            num_steps=self._num_steps,
            num_generated_tokens=self._num_generated_tokens,
        )

    def _postprocess(self, chunks: list[Chunk], ending: list[Chunk], tokens: list[int | None]) -> list[GenerateDelta]:
        """Account for what was read, append the new tokens, and free what has ended."""
        self._num_steps += 1
        for chunk in chunks:
            chunk.sequence.num_computed_tokens += chunk.num_tokens
        deltas = [
            self._advance(chunk.sequence, token) if token is not None else self._fail(chunk.sequence)
            for chunk, token in zip(ending, tokens, strict=True)
        ]
        for delta in deltas:
            if delta.finish_reason is not None:
                self._scheduler.remove(delta.request_id)
        return deltas

    def _advance(self, sequence: Sequence, token: int) -> GenerateDelta:
        sequence.token_ids.append(token)
        self._num_generated_tokens += 1
        if token in self._eos_ids and not sequence.sampling.ignore_eos:
            text, _ = sequence.text.flush()
            return _delta(sequence, text, (token,), "stop")
        text, stopped = sequence.text.push(token)
        if stopped:
            return _delta(sequence, text, (token,), "stop")
        if sequence.num_completion_tokens < sequence.max_tokens:
            return _delta(sequence, text, (token,))
        rest, stopped = sequence.text.flush()
        return _delta(sequence, text + rest, (token,), "stop" if stopped else "length")

    def _fail(self, sequence: Sequence) -> GenerateDelta:
        return _delta(sequence, "", (), "error", "the model's logits are not finite (NaN or infinite)")


def _delta(
    sequence: Sequence,
    text: str,
    tokens: tuple[int, ...],
    finish_reason: FinishReason | None = None,
    error: str | None = None,
) -> GenerateDelta:
    return GenerateDelta(
        request_id=sequence.request_id,
        text=text,
        token_ids=tokens,
        num_prompt_tokens=sequence.num_prompt_tokens,
        num_completion_tokens=sequence.num_completion_tokens,
        finish_reason=finish_reason,
        error=error,
    )
