"""Golden inputs: what the engine answers, what plain transformers answers, and what the parent answered.

Greedy decoding takes the most probable token. Where two tokens are as good as equal, rounding decides, and an engine
that computes many requests in one matrix rounds in another order than ``generate`` does. So a first difference counts
as an error only when the plain model prefers its own token clearly.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.protocol import BatchEngine, GenerateEngine, GenerateRequest, SamplingParams
from fastserve_ray.engines.table import open_engine
from fastserve_ray.engines.torch.linears import quantize_output_layer
from fastserve_ray.models.loading import LoadedModel, load_pretrained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fastserve_ray.spec import EngineSpec
    from fastserve_ray.spec.model import TaskName
    from fastserve_ray.tasks.protocol import Row

Tokens = tuple[int, ...]

ROUNDING: dict[TaskName, tuple[float, float]] = {"text-generation": (1e-3, 0.1), "text-classification": (1e-4, 0.05)}
"""Logits closer than this are a tie, probabilities closer than this are equal: for float layers, and for int8 ones.
Noise of 1e-7 before an int8 layer can move an activation by a whole step of its grid (of bfloat16's for weight-only);
six random layers with large weights made 0.02 of it, the worst case tried."""


@dataclass(frozen=True)
class Golden:
    """Answers to the golden inputs."""

    num_inputs: int
    num_compared: int
    """Tokens (generation) or labels (classification) compared with the plain model."""
    num_equal: int
    num_ties: int
    """Inputs that differ, but only from a tie on."""
    largest_gap: float
    """By how much the plain model preferred its own answer (logits, or probability) where they differ most."""
    tolerance: float
    agreement: float
    """Part of the parent's answers that the model gives too; 1 when it is its own parent."""

    @property
    def is_faithful(self) -> bool:
        """Whether the engine computes what plain transformers computes."""
        return self.largest_gap <= self.tolerance


NOT_SERVED = Golden(0, 0, 0, 0, 0.0, 0.0, 1.0)
"""Of a model that no engine runs: there is nothing to replay."""


@dataclass(frozen=True)
class Fidelity:
    """How the engine compares with plain transformers on one input."""

    num_compared: int
    num_equal: int
    gap: float


def replay(
    folder: Path,
    parent: Path | None,
    *,
    task: TaskName,
    rows: Sequence[Row],
    num_tokens: int,
    engine_spec: EngineSpec,
    num_shards: int = 1,
) -> Golden:
    """Run ``rows`` through the engine over ``folder``, the plain model, and the engine over ``parent``.

    Args:
        parent: folder of the trained parent; None when the model is its own.
        rows: golden rows of the prepared dataset.
        num_tokens: generated for each input.
        num_shards: as `serve.shards.tensor`; more than one are processes of this machine.

    Raises:
        EngineError: the engine cannot run the model.
    """
    plain = load_as_served(folder, task, engine_spec)
    if task == "text-classification":
        return _replay_classifier(folder, parent, plain, [str(row["text"]) for row in rows], engine_spec)
    with _opened(folder, engine_spec, num_shards) as engine:
        prompts = [_prompt(row, engine.max_model_len) for row in rows]
        answers = _generate(engine, prompts, num_tokens)
        wanted = [min(num_tokens, engine.max_model_len - len(prompt)) for prompt in prompts]
    checks = [_compare(plain, *case) for case in zip(prompts, answers, wanted, strict=True)]
    expected = answers
    if parent is not None:
        expected = _generate(cast("GenerateEngine", open_engine(parent, task, engine_spec)), prompts, num_tokens)
    return _golden(checks, _share_of_equal_tokens(answers, expected), _tolerance(plain))


@contextmanager
def _opened(folder: Path, spec: EngineSpec, num_shards: int) -> Iterator[GenerateEngine]:
    """The engine as it will be served. Shards share torch's threads as long as they are there."""
    if num_shards == 1:
        yield cast("GenerateEngine", open_engine(folder, "text-generation", spec))
        return
    from fastserve_ray.engines.torch.shards.factory import open_sharded_engine

    num_threads = torch.get_num_threads()
    try:
        with closing(open_sharded_engine(folder, spec, num_shards=num_shards)) as engine:
            yield engine
    finally:
        torch.set_num_threads(num_threads)


def load_as_served(folder: Path, task: TaskName, engine_spec: EngineSpec) -> LoadedModel:
    """Plain transformers with the weights that the engine will have: what it quantizes itself is quantized here too."""
    loaded = load_pretrained(folder, task, dtype=engine_spec.dtype)
    if engine_spec.int8_output_layer and task == "text-generation":
        quantize_output_layer(loaded.model)
    return loaded


def _prompt(row: Row, max_model_len: int) -> Tokens:
    """The first half of the tokens of a row's longest document, and no more than half of what the engine takes."""
    tokens = _longest_document(row)
    return tuple(tokens[: max(1, min(len(tokens), max_model_len) // 2)])


def _longest_document(row: Row) -> list[int]:
    tokens = [int(token) for token in row["input_ids"]]
    lengths = list(row.get("lengths") or [len(tokens)])
    longest = lengths.index(max(lengths))
    start = sum(lengths[:longest])
    return tokens[start : start + lengths[longest]]


def _generate(engine: GenerateEngine, prompts: Sequence[Tokens], num_tokens: int) -> list[Tokens]:
    sampling = SamplingParams(max_tokens=num_tokens, temperature=0.0)
    requests = [GenerateRequest(f"golden-{i}", prompt, sampling) for i, prompt in enumerate(prompts)]
    return [completion.token_ids for completion in generate_all(engine, requests)]


def _compare(plain: LoadedModel, prompt: Tokens, answer: Tokens, num_tokens: int) -> Fidelity:
    """One prompt alone through ``generate``, against the engine's answer."""
    model: Any = plain.model
    inputs = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            max_new_tokens=num_tokens,
            pad_token_id=plain.tokenizer.pad_token_id,
        )
    expected: Tokens = tuple(output[0, len(prompt) :].tolist())
    length = max(len(expected), len(answer))
    same = next((i for i, pair in enumerate(zip(expected, answer, strict=False)) if pair[0] != pair[1]), None)
    if same is None:
        same = min(len(expected), len(answer))
        return Fidelity(length, same, 0.0 if same == length else float("inf"))
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *expected[:same]]])).logits[0, -1].float()
    return Fidelity(length, same, float(logits[expected[same]] - logits[answer[same]]))


def _share_of_equal_tokens(answers: Sequence[Tokens], expected: Sequence[Tokens]) -> float:
    """Tokens that are equal at their position over the parent's tokens."""
    total = sum(max(len(a), len(b)) for a, b in zip(answers, expected, strict=True))
    pairs = [pair for a, b in zip(answers, expected, strict=True) for pair in zip(a, b, strict=False)]
    return sum(a == b for a, b in pairs) / total if total else 1.0


def _replay_classifier(
    folder: Path, parent: Path | None, plain: LoadedModel, texts: Sequence[str], spec: EngineSpec
) -> Golden:
    engine = cast("BatchEngine", open_engine(folder, "text-classification", spec))
    predictions = engine.predict(texts)
    expected = [_scores(plain, text, engine.count_tokens(text)) for text in texts]
    tolerance = _tolerance(plain)
    checks = []
    for prediction, scores in zip(predictions, expected, strict=True):
        gap = max(abs(a - b) for a, b in zip(prediction.scores, scores, strict=True))
        same = prediction.label_id == max(range(len(scores)), key=scores.__getitem__)
        checks.append(Fidelity(1, int(same), gap))
    if parent is None:
        return _golden(checks, 1.0, tolerance)
    other = cast("BatchEngine", open_engine(parent, "text-classification", spec)).predict(texts)
    agreed = sum(a.label == b.label for a, b in zip(predictions, other, strict=True))
    return _golden(checks, agreed / len(texts), tolerance)


def _scores(plain: LoadedModel, text: str, num_tokens: int) -> list[float]:
    """Probabilities of one text on its own, cut where the engine cuts it."""
    encoded = plain.tokenizer(text, return_tensors="pt", truncation=True, max_length=num_tokens)
    with torch.inference_mode():
        logits = plain.model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    probabilities: list[float] = logits[0].float().softmax(-1).tolist()
    return probabilities


def _tolerance(plain: LoadedModel) -> float:
    from fastserve_ray.models.quantized import Int8Linear

    is_int8 = any(isinstance(module, Int8Linear) for module in plain.model.modules())
    return ROUNDING[cast("TaskName", plain.task)][is_int8]


def _golden(checks: Sequence[Fidelity], agreement: float, tolerance: float) -> Golden:
    return Golden(
        num_inputs=len(checks),
        num_compared=sum(check.num_compared for check in checks),
        num_equal=sum(check.num_equal for check in checks),
        num_ties=sum(check.num_equal < check.num_compared and check.gap <= tolerance for check in checks),
        largest_gap=max((check.gap for check in checks), default=0.0),
        tolerance=tolerance,
        agreement=agreement,
    )
