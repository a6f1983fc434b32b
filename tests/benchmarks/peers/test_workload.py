"""The requests that every engine is given."""

from __future__ import annotations

from benchmarks.peers.weights import make_tokenizer
from benchmarks.peers.workload import MAX_MODEL_LEN, MAX_NUM_SEQS, QUICK_SHAPE, mixed_batch, single_decode


def test_the_batch_is_the_one_that_the_table_names() -> None:
    lengths = mixed_batch().lengths
    assert len(lengths) == MAX_NUM_SEQS
    assert all(32 <= prompt <= 256 and 16 <= completion <= 128 for prompt, completion in lengths)
    assert len(set(lengths)) > MAX_NUM_SEQS // 2
    assert mixed_batch() == mixed_batch()
    assert mixed_batch().num_completion_tokens == sum(completion for _, completion in lengths)


def test_every_request_fits_every_engine() -> None:
    for workload in (mixed_batch(), single_decode()):
        for request in workload.draw(QUICK_SHAPE.vocab_size, seed=0):
            assert len(request.prompt) + request.length <= MAX_MODEL_LEN


def test_a_round_has_the_lengths_but_not_the_prompts_of_the_one_before() -> None:
    first, second = (mixed_batch().draw(QUICK_SHAPE.vocab_size, seed=seed) for seed in (0, 1))
    assert [len(request.prompt) for request in first] == [len(request.prompt) for request in second]
    block = 16
    assert not {request.prompt[:block] for request in first} & {request.prompt[:block] for request in second}
    assert first == mixed_batch().draw(QUICK_SHAPE.vocab_size, seed=0)


def test_the_tokenizer_has_as_many_entries_as_the_model() -> None:
    tokenizer = make_tokenizer(QUICK_SHAPE.vocab_size)
    assert len(tokenizer) == QUICK_SHAPE.vocab_size
    assert tokenizer.decode(tokenizer("any text, grüße")["input_ids"]) == "any text, grüße"
    assert tokenizer.eos_token_id == QUICK_SHAPE.vocab_size - 1
