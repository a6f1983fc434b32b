"""The prefix index against plain sets, and what it forgets."""

from __future__ import annotations

import random

from fastserve_ray.serve.routing.prefix_index import PrefixIndex


def test_match_is_the_longest_common_beginning() -> None:
    index = PrefixIndex()
    index.add("a", [1, 2, 3])
    index.add("b", [1, 2])
    index.add("c", [9])
    assert index.match([1, 2, 3, 4]) == {"a": 3, "b": 2}
    assert index.match([1]) == {"a": 1, "b": 1}
    assert index.match([2, 3]) == {"a": 2, "b": 1}
    assert index.match([]) == {}
    assert PrefixIndex().match([1]) == {}


def test_what_was_used_longest_ago_is_forgotten_first_and_ends_before_beginnings() -> None:
    index = PrefixIndex()
    index.set_capacity("a", 4)
    index.add("a", [1, 2])
    index.add("a", [5, 6])
    index.add("a", [1, 3])
    assert index.match([1, 2]) == {"a": 1}, "2 was used longest ago"
    assert index.match([1, 3]) == {"a": 2}
    assert index.match([5, 6]) == {"a": 2}
    index.add("a", [1, 4])
    assert index.match([5, 6]) == {"a": 1}
    assert index.num_blocks("a") == 4
    index.set_capacity("a", 1)
    assert index.num_blocks("a") == 1
    assert index.match([1, 4]) == {"a": 1}


def test_a_replica_that_is_gone_holds_nothing() -> None:
    index = PrefixIndex()
    index.add("a", [1, 2])
    index.add("b", [1])
    index.remove("a")
    assert index.match([1, 2]) == {"b": 1}
    index.remove("b")
    index.remove("never there")
    assert index.match([1, 2]) == {}
    assert index.replicas() == set()


def test_against_sets() -> None:
    draw = random.Random(3)
    index = PrefixIndex()
    sets: dict[str, set[int]] = {name: set() for name in "abcd"}
    prompts = [[group, group * 100 + draw.randrange(3), draw.randrange(10**6)] for group in range(1, 9) for _ in "abc"]
    for _ in range(300):
        name, prompt = draw.choice("abcd"), draw.choice(prompts)
        if draw.random() < 0.02:
            index.remove(name)
            sets[name].clear()
        else:
            index.add(name, prompt)
            sets[name].update(prompt)
        wanted = draw.choice(prompts)
        expected = {}
        for other, keys in sets.items():
            length = next((at for at, key in enumerate(wanted) if key not in keys), len(wanted))
            if length:
                expected[other] = length
        assert index.match(wanted) == expected
