"""Who waits for whom while steps are dispatched: at most two at once, and only idle devices wait
for data.

The steps are leaves that jax waits for as for arrays of its own, and finish when the test says so.
"""

import threading

import pytest

from xclip_jax.training import in_flight


class Step:
    """What a step returns; finished when told to be."""

    def __init__(self):
        self.finished = threading.Event()

    def block_until_ready(self):
        assert self.finished.wait(60)
        return self


@pytest.fixture
def clock(monkeypatch):
    """The time, of which `clock[0]` are the seconds."""
    now = [100.0]
    monkeypatch.setattr(in_flight.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def flight():
    flight = in_flight.InFlight()
    yield flight
    flight.close()


def finish(step: Step, flight: in_flight.InFlight, place: int) -> None:
    step.finished.set()
    flight.ends[place].result()  # the thread has noted the time


def test_reading_while_the_device_computes_is_no_wait_for_data(clock, flight):
    step = Step()
    flight.add(step)

    def read():
        clock[0] += 5
        yield "batch"

    assert flight.next(read()) == "batch"
    assert flight.waited == 0
    step.finished.set()


def test_a_device_waits_for_data_from_where_it_has_finished(clock, flight):
    step = Step()
    flight.add(step)

    def read():
        clock[0] += 5
        finish(step, flight, 0)
        clock[0] += 2
        yield "first"
        clock[0] += 4  # and all of this, for nothing was dispatched since
        yield "second"

    batches = read()
    assert flight.next(batches) == "first" and flight.waited == 2
    clock[0] += 30  # an evaluation, which is no wait for data
    assert flight.next(batches) == "second" and flight.waited == 6


def test_the_first_batch_is_waited_for(clock, flight):
    def read():
        clock[0] += 3
        yield "batch"

    flight.next(read())

    assert flight.waited == 3


def test_a_third_step_is_given_only_when_the_first_is_finished(flight):
    steps, order = [Step(), Step()], []
    for step in steps:
        flight.add(step)
    reading = threading.Event()

    def read():
        reading.set()
        yield "batch"

    def device():
        assert reading.wait(60)
        order.append("finished")
        steps[0].finished.set()

    thread = threading.Thread(target=device)
    thread.start()
    flight.next(read())
    order.append("given")
    thread.join()
    assert order == ["finished", "given"] and not steps[1].finished.is_set()
    steps[1].finished.set()


def test_what_a_step_failed_with_is_raised(flight):
    class Failing:
        def block_until_ready(self):
            raise RuntimeError("out of memory")

    for _ in range(2):
        flight.add(Failing())

    with pytest.raises(RuntimeError, match="out of memory"):
        flight.next(iter(["batch"]))
