"""When a run in which nothing moves is ended, and when it is left to compute."""

import pytest

from xclip_jax.processes import watch


@pytest.mark.parametrize(
    ("counts", "waited", "ended"),
    [
        ({0: 7, 1: 7, 2: 7}, 900, False),  # a long step, of which all wait for the devices
        ({0: 7, 1: 7, 2: 7}, 4 * 3600 - 1, False),
        ({0: 7, 1: 7, 2: 7}, 4 * 3600, True),
        ({0: 8, 1: 7, 2: 8}, 899, False),
        ({0: 8, 1: 7, 2: 8}, 900, True),
        ({0: 5}, 900, False),
    ],
)
def test_a_run_is_ended_early_only_where_a_process_is_behind(counts, waited, ended):
    assert watch.hangs(counts, waited, timeout=900) is ended


def test_those_furthest_behind_are_named():
    assert watch.behind({3: 9, 2: 4, 0: 4, 1: 6}) == [0, 2]
    assert watch.behind({0: 4, 1: 4}) == []
