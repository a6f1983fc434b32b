"""The replica's own words, out of Serve's status message."""

from __future__ import annotations

from fastserve_ray.serve.causes import cause_of, is_ours

OURS = """A replica failed to start with exception. Retrying 0 more time(s). Error:
Traceback (most recent call last):
  File "replica.py", line 20, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "loading.py", line 1, in load_pretrained
ValueError: no such file

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "engine.py", line 2, in open_engine
fastserve_ray.errors.ModelError: cannot load the model (no such file)
  got: /nowhere
  change: model.base
"""


def test_our_errors_are_shown_whole_and_without_their_class() -> None:
    assert cause_of(OURS) == "cannot load the model (no such file)\n  got: /nowhere\n  change: model.base"


def test_other_errors_are_shown_with_their_class() -> None:
    message = "The deployment failed to start\n  File x\nRuntimeError: out of memory\n"
    assert cause_of(message) == "RuntimeError: out of memory"


def test_a_message_without_an_exception_is_shown_as_it_is() -> None:
    assert cause_of("Deployment needs 4 CPU, 2 are there.") == "Deployment needs 4 CPU, 2 are there."


def test_a_lost_node_is_no_fault_of_the_model() -> None:
    assert is_ours(OURS)
    assert not is_ours("Deployment actor 'weights-0' failed: The actor died because its node has died.")
