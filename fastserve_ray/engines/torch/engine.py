"""The generate engine: continuous batching of any number of requests over one model.

The life of a request: queued by `add_request`; its prompt is read in chunks beside the others' decoding, from where
the cache does not know it already; then one token a step while the policy has it among the first, until a stop; its
blocks are free in that same step. With ``n`` completions the prompt is read once, and they share its blocks.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from fastserve_ray.engines.protocol import EngineStats, FinishReason, GenerateDelta, GenerateRequest
from fastserve_ray.engines.torch.constrained import Constraints
from fastserve_ray.engines.torch.detokenize import Detokenizer, decoder_of
from fastserve_ray.engines.torch.limits import eos_token_ids
from fastserve_ray.engines.torch.sampling import NOT_FINITE, Sampled, Sampler, sample
from fastserve_ray.engines.torch.sequence import Place, Sequence
from fastserve_ray.engines.torch.stop import StopMatcher
from fastserve_ray.engines.torch.text import TextStream
from fastserve_ray.engines.torch.validate import check_request
from fastserve_ray.errors import EngineFullError

if TYPE_CHECKING:
    import torch

    from fastserve_ray.engines.torch.runner import Runner
    from fastserve_ray.engines.torch.scheduler import Chunk, Scheduler


class TorchEngine:
    """See `protocol.GenerateEngine` for the contract. Built by `factory.build_generate_engine`.

    Args:
        max_num_waiting: requests that may wait for their first step; a further one is refused.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        scheduler: Scheduler,
        runner: Runner,
        max_model_len: int,
        max_num_waiting: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._runner = runner
        self._max_model_len = max_model_len
        self._max_num_waiting = max_num_waiting
        self._vocab_size = int(model.config.get_text_config().vocab_size)
        self._eos_ids = eos_token_ids(model, tokenizer)
        self._decode = decoder_of(tokenizer)
        self._special_ids = frozenset(tokenizer.all_special_ids)
        self._constraints = Constraints(tokenizer, self._vocab_size, self._eos_ids)
        self._open: dict[str, list[Sequence]] = {}
        """By request id, its completions that are not finished."""
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
        check_request(request, vocab_size=self._vocab_size, max_model_len=self._max_model_len, known=self._open)
        num_waiting = sum(sequence.place is Place.NOWHERE for sequence in self._scheduler.sequences.values())
        if num_waiting >= self._max_num_waiting:
            raise EngineFullError(
                "too many requests are waiting",
                value=num_waiting,
                allowed=f"at most {self._max_num_waiting}",
                key="serve.engine.max_num_waiting",
                hint="try again later, or add replicas",
            )
        first, *siblings = (self._new_sequence(request, index) for index in range(request.sampling.n))
        first.siblings = siblings
        self._open[request.request_id] = [first, *siblings]
        self._scheduler.add(first)

    def cancel(self, request_id: str) -> None:
        for sequence in self._open.pop(request_id, ()):
            self._scheduler.remove(sequence.request_id)

    def has_work(self) -> bool:
        return self._scheduler.has_work()

    def step(self) -> list[GenerateDelta]:
        plan = self._scheduler.schedule()
        if not plan.chunks and not plan.kv:
            return []
        ending, logits = self._runner.run(plan)
        self._scheduler.account(plan)
        self._num_steps += 1
        sequences, logits = self._with_siblings(ending, logits)
        tokens = sample(logits, [sequence.sampler for sequence in sequences]) if sequences else []
        return self._postprocess(sequences, tokens)

    def close(self) -> None:
        """End what runs beside the engine; without effect on requests."""
        self._runner.close()

    def stats(self) -> EngineStats:
        sequences, counts = self._scheduler.sequences.values(), self._scheduler.counts
        pool = self._scheduler.pool
        places = [sequence.place for sequence in sequences]
        unfinished = itertools.chain.from_iterable(self._open.values())
        return EngineStats(
            num_running=len(places) - places.count(Place.NOWHERE),
            num_waiting=places.count(Place.NOWHERE),
            num_outstanding_tokens=sum(sequence.num_outstanding_tokens for sequence in unfinished),
            kv_tokens_used=pool.num_used * pool.block_size,
            kv_tokens_total=pool.num_blocks * pool.block_size,
            num_steps=self._num_steps,
            num_generated_tokens=self._num_generated_tokens,
            num_swapped=places.count(Place.HOST),
            num_preemptions=counts.preemptions,
            num_swapped_blocks=counts.swapped_out_blocks + counts.swapped_in_blocks,
            num_dropped_tokens=counts.dropped_tokens,
            prefix_hit_tokens=counts.prefix_hit_tokens,
            prompt_tokens=counts.prompt_tokens,
            seconds_swapping=self._runner.seconds_swapping,
        )

    def _new_sequence(self, request: GenerateRequest, index: int) -> Sequence:
        sampling, prompt = request.sampling, request.prompt_token_ids
        detokenizer = Detokenizer(self._decode, self._special_ids, prompt)
        return Sequence(
            request,
            index=index,
            arrival=next(self._arrivals),
            arrived_at=self._scheduler.clock(),
            max_tokens=min(sampling.max_tokens, self._max_model_len - len(prompt)),
            text=TextStream(detokenizer, StopMatcher(sampling.stop)),
            sampler=Sampler(
                sampling,
                prompt,
                vocab_size=self._vocab_size,
                eos_ids=self._eos_ids,
                matcher=None if sampling.constraint is None else self._constraints.matcher(sampling.constraint),
                index=index,
            ),
        )

    def _with_siblings(self, ending: list[Chunk], logits: torch.Tensor) -> tuple[list[Sequence], torch.Tensor]:
        """The sequences that get a token now, and their logits: completions of one prompt begin from the same."""
        sequences: list[Sequence] = []
        rows: list[int] = []
        for row, chunk in enumerate(ending):
            sequence = chunk.sequence
            begun = [sequence, *sequence.siblings]
            for sibling in sequence.siblings:
                self._scheduler.fork(sequence, sibling)
            sequence.siblings = []
            sequences += begun
            rows += [row] * len(begun)
        return sequences, logits if len(rows) == len(ending) else logits[rows]

    def _postprocess(self, sequences: list[Sequence], tokens: list[Sampled | None]) -> list[GenerateDelta]:
        """Append the new tokens, and free what has ended."""
        deltas = []
        for sequence, sampled in zip(sequences, tokens, strict=True):
            delta = self._advance(sequence, sampled)
            if delta.finish_reason is not None:
                self._finish(sequence)
            deltas.append(delta)
        return deltas

    def _finish(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence.request_id)
        unfinished = self._open[sequence.request.request_id]
        unfinished.remove(sequence)
        if not unfinished:
            del self._open[sequence.request.request_id]

    def _advance(self, sequence: Sequence, sampled: Sampled | None) -> GenerateDelta:
        if sampled is None:
            return _delta(sequence, "", None, "error", sequence.sampler.error or NOT_FINITE)
        token = sampled.token_id
        sequence.token_ids.append(token)
        self._num_generated_tokens += 1
        if token in self._eos_ids and not sequence.sampling.ignore_eos:
            text, _ = sequence.text.flush()
            return _delta(sequence, text, sampled, "stop")
        may_stop = sequence.num_completion_tokens >= sequence.sampling.min_tokens
        text, stopped = sequence.text.push(token, may_stop=may_stop)
        if stopped:
            return _delta(sequence, text, sampled, "stop")
        if sequence.sampler.matcher is not None and sequence.sampler.matcher.is_complete:
            rest, _ = sequence.text.flush()
            return _delta(sequence, text + rest, sampled, "stop")
        if sequence.num_completion_tokens < sequence.max_tokens:
            return _delta(sequence, text, sampled)
        rest, stopped = sequence.text.flush()
        return _delta(sequence, text + rest, sampled, "stop" if stopped else "length")


def _delta(
    sequence: Sequence,
    text: str,
    sampled: Sampled | None,
    finish_reason: FinishReason | None = None,
    error: str | None = None,
) -> GenerateDelta:
    return GenerateDelta(
        request_id=sequence.request.request_id,
        index=sequence.index,
        text=text,
        token_ids=() if sampled is None else (sampled.token_id,),
        logprobs=() if sampled is None or sampled.logprob is None else (sampled.logprob,),
        num_prompt_tokens=sequence.num_prompt_tokens,
        num_completion_tokens=sequence.num_completion_tokens,
        finish_reason=finish_reason,
        error=error,
        queue_s=None if sequence.began_at is None else sequence.began_at - sequence.arrived_at,
    )
