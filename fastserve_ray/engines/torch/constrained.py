"""Constrained output: which tokens may come next, so that the completion is what the request asked for.

llguidance walks grammar and vocabulary together and answers with a mask for each step; why it was taken says
docs/adr/0004-constrained-output.md.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastserve_ray.engines.protocol import Constraint, Grammar, JsonObject, JsonSchema, Regex
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = "constraint"
JSON_FORM = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
"""Python's usual form. Where any white space may come, models are known to write nothing else to the end."""

MAX_KEPT = 64
"""Constraints that are kept ready, least recently used first out; clients repeat theirs, and ``n`` asks n times."""


class Constraints:
    """Makes matchers over one model's vocabulary.

    Reading the vocabulary takes up to a second, so it happens when the first constraint is asked for.

    Args:
        tokenizer: a fast tokenizer of transformers.
        vocab_size: width of the logits.
        eos_ids: tokens that end a completion.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = sorted(eos_ids)
        self._vocabulary: Any = None
        self._kept: OrderedDict[Constraint, Any] = OrderedDict()
        """llguidance's matchers at the beginning, to be copied."""

    def matcher(self, constraint: Constraint) -> Matcher:
        """A fresh matcher at the beginning of a completion.

        Raises:
            EngineError: the constraint cannot be read, or this model's tokenizer cannot be constrained.
        """
        if constraint not in self._kept:
            self._kept[constraint] = self._read(constraint)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(constraint)
        return Matcher(self._kept[constraint].deep_copy(), self._vocab_size)

    def _read(self, constraint: Constraint) -> Any:
        llguidance = _library()
        if self._vocabulary is None:
            self._vocabulary = self._read_vocabulary()
        try:
            grammar = _grammar(llguidance.LLMatcher, constraint)
        except (ValueError, RecursionError) as error:
            raise _unreadable(constraint, str(error)) from error
        limits = llguidance.LLParserLimits(verbose_errors=False)
        matcher = llguidance.LLMatcher(self._vocabulary, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise _unreadable(constraint, matcher.get_error())
        matcher.compute_bitmask()
        if matcher.is_error() or (matcher.is_stopped() and not matcher.is_accepting()):
            raise _unreadable(constraint, "no text fulfils it")
        return matcher

    def _read_vocabulary(self) -> Any:
        from llguidance.hf import from_tokenizer

        try:
            return from_tokenizer(self._tokenizer, n_vocab=self._vocab_size, eos_token=self._eos_ids or None)
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise EngineError(
                f"the output of this model cannot be constrained: {error}",
                value=type(self._tokenizer).__name__,
                allowed="a fast tokenizer (tokenizer.json)",
                key=KEY,
            ) from error


class Matcher:
    """Where one completion is in its grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def is_complete(self) -> bool:
        """Whether nothing but an end-of-sequence token may come."""
        return bool(self._matcher.is_stopped() and not self._matcher.is_error())

    @property
    def error(self) -> str | None:
        """Why it can go on no more: a limit of the grammar was reached."""
        return str(self._matcher.get_error()).partition("\n")[0] if self._matcher.is_error() else None

    def allowed(self) -> torch.Tensor:
        """(vocabulary,) bool: the tokens that may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        mask: np.ndarray = np.zeros(self._vocab_size, dtype=bool)
        flags = np.unpackbits(bits, bitorder="little")[: self._vocab_size]
        mask[: len(flags)] = flags
        return torch.from_numpy(mask)

    def push(self, token_id: int) -> None:
        """``token_id`` has come."""
        self._matcher.consume_token(token_id)


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise EngineError(
            "constrained output needs the package llguidance", key=KEY, hint="pip install llguidance"
        ) from error
    return llguidance


def _grammar(compiler: Any, constraint: Constraint) -> str:
    match constraint:
        case JsonObject():
            return str(compiler.grammar_from_json_schema('{"type": "object"}', overrides=JSON_FORM))
        case JsonSchema(schema):
            return str(compiler.grammar_from_json_schema(json.dumps(json.loads(schema)), overrides=JSON_FORM))
        case Regex(pattern):
            return str(compiler.grammar_from_regex(pattern))
        case Grammar(text):
            return str(compiler.grammar_from_lark(text))


def _unreadable(constraint: Constraint, reason: str) -> EngineError:
    kind = {JsonObject: "JSON object", JsonSchema: "JSON schema", Regex: "regular expression", Grammar: "grammar"}
    value = constraint if isinstance(constraint, JsonObject) else next(iter(vars(constraint).values()))
    return EngineError(f"this {kind[type(constraint)]} cannot be used: {reason}", value=value, key=KEY)
