"""The text inside CPython."""

from __future__ import annotations

import sys

from fastserve_ray.data.python_docs import MIN_CHARACTERS, python_docs


def test_documents_are_english_and_none_comes_twice() -> None:
    before = set(sys.modules)
    documents = python_docs()
    assert len(documents) > 200
    assert len(set(documents)) == len(documents)
    assert min(len(document) for document in documents) >= MIN_CHARACTERS
    assert sum(len(document) for document in documents) > 1_000_000
    assert any('The "for" statement' in document for document in documents)
    assert set(sys.modules) - before <= {"pydoc_data", "pydoc_data.topics"}


def test_the_order_is_fixed() -> None:
    assert python_docs(5) == python_docs()[:5]
