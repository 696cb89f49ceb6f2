"""Batching: concurrent requests share runs, are refused or dropped, and never change each other's results."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifold.runtime import operations
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import Busy, DeadlineExceeded, InvalidValue, Unavailable
from manifold.service.models import batcher as batching
from manifold.service.models.batcher import NICE, Batcher, Ran
from manifold.service.models.costs import CALM, InPlace, RunCosts
from manifold.service.models.queueing import WINDOW, Queue, Work
from manifold.service.settings import Settings
from tests import foreign
from tests.gate import Gate

Array = np.ndarray[Any, Any]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load(foreign.write(tmp_path), device="cpu")


@pytest.fixture
def gate(model: Model) -> Gate:
    return Gate(model)


@pytest.fixture
def make(model: Model, tmp_path: Path) -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def batcher(**options: Any) -> Batcher:
        made.append(Batcher(model, Settings(models_dir=tmp_path, **options).of_model("foreign")))
        return made[-1]

    yield batcher
    for each in made:
        each.close()


def ask(batcher: Batcher, seed: int, n: int = 1, seconds: float = 60.0) -> asyncio.Task[Any]:
    """Start a request for n items of a seed."""
    steps = operations.sample(batcher.model.manifest, n, seed=seed)
    return asyncio.get_running_loop().create_task(batcher.drive(steps, n, time.monotonic() + seconds))


def alone(model: Model, seed: int, n: int = 1) -> Array:
    """Return the items that a model gives in a run of its own."""
    return load(model.folder, device="cpu", verify=False).sample(n, seed=seed).data


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# --- joining ---


def test_what_arrives_while_the_engine_works_is_one_run(model: Model, gate: Gate, make: Callable[..., Batcher]) -> None:
    batcher = make()

    async def scene() -> list[Any]:
        first = ask(batcher, 0)
        await gate.running()
        others = [ask(batcher, seed, n) for seed, n in ((1, 2), (2, 1), (3, 5))]
        await settle()
        gate.go.set()
        return await asyncio.gather(first, *others)

    results = asyncio.run(scene())
    assert gate.batches == [1, 8]
    for (found, timing), (seed, n) in zip(results, ((0, 1), (1, 2), (2, 1), (3, 5)), strict=True):
        assert np.array_equal(found.data, alone(model, seed, n))
        assert timing.compute > 0


def test_requests_that_arrive_together_go_together_and_an_idle_engine_waits_for_nobody(
    gate: Gate, make: Callable[..., Batcher]
) -> None:
    batcher, ran = make(), list[Ran]()
    batcher.listener = ran.append
    gate.go.set()

    async def scene() -> None:
        await asyncio.gather(*(ask(batcher, seed) for seed in range(10)))
        await ask(batcher, 11)

    asyncio.run(scene())
    assert gate.batches == [10, 1]
    assert [(each.rows, each.requests, each.reason) for each in ran] == [(10, 10, "idle"), (1, 1, "idle")]


def test_short_runs_stay_on_the_event_loop_and_long_ones_leave_it(model: Model, make: Callable[..., Batcher]) -> None:
    batcher, ran, threads = make(), list[Ran](), list[int]()
    batcher.listener = ran.append
    original, pause = model.runner.compute, 0.0

    def compute(task: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        threads.append(threading.get_ident())
        end = time.thread_time() + pause
        while time.thread_time() < end:
            pass
        return original(task, inputs)

    model.runner.compute = compute  # type: ignore[method-assign]

    async def scene() -> None:
        nonlocal pause
        for _ in range(20):
            await ask(batcher, 1)
        pause = 0.01
        for _ in range(4):
            await ask(batcher, 1)

    asyncio.run(scene())
    here = threading.get_ident()
    assert threads[0] != here  # the first run has no measured time yet
    assert here in threads[1:20]
    assert threads[-1] != here
    assert [each.in_place for each in ran] == [thread == here for thread in threads]


def test_a_graph_whose_time_depends_on_its_input_never_runs_on_the_event_loop(tmp_path: Path) -> None:
    """Even if all earlier runs were fast, the first slow run would block the event loop before it could be measured."""
    model = load(foreign.write(tmp_path, foreign.looping, name="looping"), device="cpu")
    batcher, ran = Batcher(model, Settings(models_dir=tmp_path).of_model("looping")), list[Ran]()
    batcher.listener = ran.append

    async def scene() -> float:
        for seed in range(30):
            await ask(batcher, seed)
        slow = np.zeros((1, foreign.LATENT), np.float32)
        slow[0, 0] = 20_000
        steps = operations.sample(model.manifest, 1, latents=slow)
        task = asyncio.create_task(batcher.drive(steps, 1, time.monotonic() + 60))
        latest = 0.0
        while not task.done():  # measures how long the loop is blocked
            began = time.thread_time()
            await asyncio.sleep(0.001)
            latest = max(latest, time.thread_time() - began)
        await task
        return latest

    assert asyncio.run(scene()) < 0.05
    assert max(each.seconds for each in ran) > 0.05
    assert not any(each.in_place for each in ran)
    batcher.close()


def test_a_slow_run_ends_runs_in_place_until_the_task_has_been_fast_for_long(model: Model) -> None:
    """A run that was slow in its thread counts too. A larger batch that takes its expected time does not."""
    places = InPlace(model)
    assert not places.allows("decode", 1)  # there is no measured time yet
    places.ran("decode", 1, 0.0002)
    assert places.allows("decode", 1)
    places.ran("decode", 64, 0.012)
    assert places.allows("decode", 1) and not places.allows("decode", 64)
    for slow in ((1, 2.0), (64, 2.0)):
        places.ran("decode", *slow)
        assert not places.allows("decode", 1)
        for count in range(2 * CALM):
            places.work.add("decode", 1, 0.0002)  # by now the mean no longer contains the slow run
            places.ran("decode", 1, 0.0002)
            assert places.allows("decode", 1) == (count >= CALM - 1)


def test_a_run_that_is_slow_in_place_is_the_last_one_there(model: Model, make: Callable[..., Batcher]) -> None:
    batcher, ran = make(), list[Ran]()
    batcher.listener = ran.append
    original, pause = model.runner.compute, 0.0

    def compute(task: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        end = time.thread_time() + pause
        while time.thread_time() < end:
            pass
        return original(task, inputs)

    model.runner.compute = compute  # type: ignore[method-assign]

    async def scene() -> None:
        nonlocal pause
        for _ in range(20):
            await ask(batcher, 1)
        pause = 0.03
        await ask(batcher, 1)
        pause = 0.0
        for _ in range(CALM // 2):
            await ask(batcher, 1)

    asyncio.run(scene())
    assert ran[20].seconds >= 0.03
    assert not any(each.in_place for each in ran[21:])


def test_outputs_are_checked_and_joined_where_they_are_made(
    model: Model, make: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = list[int]()

    def noted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            threads.append(threading.get_ident())
            return original(*given)

        return call

    for name in ("not_finite", "joined"):
        monkeypatch.setattr(f"manifold.service.models.batcher.{name}", noted(getattr(batching, name)))
    monkeypatch.setattr(model.runner, "check", noted(model.runner.check))
    monkeypatch.setattr("manifold.service.models.costs.IN_PLACE", 0)
    batcher = make(max_rows=64)

    async def scene() -> Array:
        found: Array = (await ask(batcher, 1, 300))[0].data
        return found

    assert np.array_equal(asyncio.run(scene()), alone(model, 1, 300))
    assert threads and threading.get_ident() not in threads


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities there")
def test_long_runs_step_back(model: Model, gate: Gate, make: Callable[..., Batcher]) -> None:
    batcher, priorities = make(), list[int]()
    gate.go.set()
    gate.spoil = lambda inputs, outputs: priorities.append(
        os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    )  # fmt: skip

    async def scene() -> None:
        await ask(batcher, 1)
        batcher.costs.add("decode", 64, 10.0)
        await ask(batcher, 2, 64)

    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    asyncio.run(scene())
    assert priorities == [here, min(19, NICE)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here


# --- fair shares ---


def _work(rows: int, done: Any, task: str = "decode") -> Work:
    return Work(task, {"latent": np.zeros((rows, 2), np.float32)}, rows, 0.0, 1.0, done)


class _Open:
    """A future that is never done."""

    def done(self) -> bool:
        return False


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), limit=st.integers(1, 32))
def test_shares_are_fair_and_whole(sizes: list[int], limit: int) -> None:
    """Every row runs once and in order. No batch exceeds the limit, or is smaller than it while rows wait. The oldest request gets half."""
    queue, works = Queue(), [_work(size, _Open()) for size in sizes]
    for work in works:
        queue.put(work)
    seen = {id(work): 0 for work in works}
    while batch := queue.take(lambda task: limit):
        waiting = [work for work in works if seen[id(work)] < work.rows]
        left = {id(work): work.rows - seen[id(work)] for work in waiting}
        gone = {id(piece.work): piece.stop - piece.start for piece in batch}
        assert sum(gone.values()) == min(limit, sum(left.values()))
        for piece in batch:
            assert piece.start == seen[id(piece.work)]
            seen[id(piece.work)] = piece.stop
        oldest, shortest = waiting[0], min(waiting[: WINDOW * limit], key=lambda work: left[id(work)])
        assert gone[id(oldest)] >= min(left[id(oldest)], limit - limit // 2)
        if oldest is not shortest:
            assert gone.get(id(shortest), 0) >= min(left[id(shortest)], limit // 2)
        assert queue.rows.get("decode", 0) == sum(work.rows - seen[id(work)] for work in works)
    assert all(seen[id(work)] == work.rows for work in works)
    assert not queue


def test_requests_of_one_size_go_whole_and_in_order() -> None:
    queue, works = Queue(), [_work(64, _Open()) for _ in range(10)]
    for work in works:
        queue.put(work)
    order = []
    while batch := queue.take(lambda task: 256):
        order += [piece.work for piece in batch]
    assert order == works


def test_a_small_request_does_not_wait_for_the_end_of_a_large_one(
    model: Model, gate: Gate, make: Callable[..., Batcher]
) -> None:
    batcher = make(max_rows=8)

    async def scene() -> tuple[list[str], Array]:
        order = []
        large = ask(batcher, 1, 200)
        await gate.running()
        small = ask(batcher, 2)
        small.add_done_callback(lambda _: order.append("small"))
        large.add_done_callback(lambda _: order.append("large"))
        gate.go.set()
        return order, (await large)[0].data

    order, found = asyncio.run(scene())
    assert order == ["small", "large"]
    assert max(gate.batches) == 8
    assert np.array_equal(found, alone(model, 1, 200))


def test_tasks_take_turns() -> None:
    queue = Queue()
    for task in ("decode", "decode", "encode"):
        queue.put(_work(10, _Open(), task))
    order = []
    while batch := queue.take(lambda task: 5):
        order.append(batch[0].work.task)
    assert order == ["decode", "encode", "decode", "encode", "decode", "decode"]


# --- failures ---


def test_a_cancelled_request_leaves_the_queue_and_harms_nobody(
    model: Model, gate: Gate, make: Callable[..., Batcher]
) -> None:
    """One of three requests is cancelled while it waits, then one while it runs. The others get their results."""
    batcher = make()

    async def scene() -> None:
        running = ask(batcher, 9)
        await gate.running()
        first, second, third = (ask(batcher, seed, 2) for seed in range(3))
        await settle()
        assert batcher.rows == 7
        second.cancel()
        running.cancel()
        await settle()
        assert batcher.rows == 4
        gate.go.set()
        results = await asyncio.gather(running, first, second, third, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert isinstance(results[2], asyncio.CancelledError)
        assert np.array_equal(results[1][0].data, alone(model, 0, 2))  # type: ignore[index]
        assert np.array_equal(results[3][0].data, alone(model, 2, 2))  # type: ignore[index]
        assert (batcher.rows, batcher.bytes) == (0, 0)

    asyncio.run(scene())
    assert gate.batches == [1, 4]  # the cancelled rows did not run


def test_a_run_that_raises_fails_the_one_whose_rows_made_it_raise(
    model: Model, gate: Gate, make: Callable[..., Batcher]
) -> None:
    batcher, bad = make(), operations.sample(model.manifest, 1, seed=1)
    poison = next(bad).inputs

    def explode(inputs: Mapping[str, Array], outputs: dict[str, Array]) -> None:
        (role,) = poison
        if (inputs[role] == poison[role]).all(axis=1).any():
            raise RuntimeError("this row")

    gate.spoil = explode

    async def scene() -> list[Any]:
        first = ask(batcher, 0)
        await gate.running()
        others = [ask(batcher, seed) for seed in (1, 2, 3)]
        await settle()
        gate.go.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    first, second, third, fourth = asyncio.run(scene())
    assert isinstance(second, RuntimeError)
    for result, seed in ((first, 0), (third, 2), (fourth, 3)):
        assert np.array_equal(result[0].data, alone(model, seed))
    assert gate.batches == [1, 3, 1, 1, 1]


def test_an_answer_that_is_not_finite_is_its_own_requests_error(
    model: Model, gate: Gate, make: Callable[..., Batcher]
) -> None:
    batcher = make()

    def spoil(inputs: Mapping[str, Array], outputs: dict[str, Array]) -> None:
        if len(outputs["data"]) == 3:
            outputs["data"] = outputs["data"].copy()
            outputs["data"][1] = np.nan

    gate.spoil = spoil

    async def scene() -> list[Any]:
        first = ask(batcher, 0)
        await gate.running()
        others = [ask(batcher, seed) for seed in (1, 2, 3)]
        await settle()
        gate.go.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    results = asyncio.run(scene())
    assert isinstance(results[2], InvalidValue)
    assert "give an input closer to the training data" in results[2].message
    assert np.array_equal(results[3][0].data, alone(model, 3))


def test_wrong_inputs_are_refused_before_they_are_queued(model: Model, make: Callable[..., Batcher]) -> None:
    batcher = make()

    def steps() -> Any:
        yield operations.Run("decode", {"latent": np.full((1, foreign.LATENT), np.nan, np.float32)})

    async def scene() -> None:
        with pytest.raises(InvalidValue):
            await batcher.drive(steps(), 1, time.monotonic() + 60)
        assert (batcher.rows, batcher.bytes) == (0, 0)
        await ask(batcher, 1)

    asyncio.run(scene())


# --- admission ---


def test_full_by_rows_by_bytes_and_by_time(model: Model, gate: Gate, make: Callable[..., Batcher]) -> None:
    by_rows, by_bytes, by_time = make(queue_rows=4), make(queue_bytes=1000), make(queue_ms=450)
    by_time.costs.add("decode", 4, 0.4)

    async def refused(batcher: Batcher, n: int, says: str) -> None:
        gate.began.clear()
        gate.go.clear()
        first = ask(batcher, 0, 4)
        await gate.running()
        kept = ask(batcher, 3, 4) if batcher is by_time else None
        await settle()
        with pytest.raises(Busy, match=says) as error:
            await ask(batcher, 1, n)
        assert error.value.retry_after >= 1
        gate.go.set()
        await asyncio.gather(first, *([kept] if kept else []))
        assert (batcher.rows, batcher.bytes) == (0, 0)
        await ask(batcher, 2, 100)  # larger than the queue, but accepted when the queue is empty

    async def scene() -> None:
        await refused(by_rows, 1, r"4 rows are queued \(limit 4\)")
        await refused(by_bytes, 400, "MiB of inputs are queued")
        await refused(by_time, 1, "waiting time is [78].. ms, but this request may wait at most 450 ms")

    asyncio.run(scene())


def test_a_wait_beyond_the_deadline_is_refused_at_once(gate: Gate, make: Callable[..., Batcher]) -> None:
    batcher = make()
    batcher.costs.add("decode", 64, 10.0)

    async def scene() -> None:
        first = ask(batcher, 0, 40)
        await gate.running()
        second = ask(batcher, 1, 40)
        await settle()
        with pytest.raises(Busy, match="but this request may wait at most"):
            await ask(batcher, 2, 1, seconds=1.0)
        gate.go.set()
        await asyncio.gather(first, second)

    asyncio.run(scene())


def test_what_waits_beyond_its_deadline_ends_though_the_engine_is_busy(
    gate: Gate, make: Callable[..., Batcher]
) -> None:
    batcher = make()

    async def scene() -> None:
        first = ask(batcher, 0)
        await gate.running()
        with pytest.raises(DeadlineExceeded, match="in the queue"):
            await ask(batcher, 1, seconds=0.02)
        assert batcher.rows == 1
        gate.go.set()
        await first

    asyncio.run(scene())
    assert gate.batches == [1]  # the expired request never ran


def test_costs_follow_what_runs_take() -> None:
    costs = RunCosts()
    assert costs.of("decode", 1) is None
    costs.add("decode", 4, 0.001)
    assert costs.of("decode", 4) == pytest.approx(0.001)
    # no time is known for a smaller run, so it is not assumed to be faster
    assert costs.of("decode", 1) == pytest.approx(0.001)
    assert costs.of("decode", 64) == pytest.approx(0.016)
    for _ in range(50):
        costs.add("decode", 4, 0.003)
    assert costs.of("decode", 5) == pytest.approx(0.003, rel=0.01)
    assert costs.a_row("decode") == pytest.approx(0.00075, rel=0.01)
    costs.add("decode", 1, 1.0)  # small runs do not change the estimate for a row of a large run
    assert costs.a_row("decode") == pytest.approx(0.00075, rel=0.01)


# --- other work, and the end ---


def test_borrowed_work_takes_its_turn(gate: Gate, make: Callable[..., Batcher]) -> None:
    batcher = make()

    async def scene() -> None:
        first = ask(batcher, 0)
        await gate.running()
        aside = asyncio.create_task(batcher.borrow(threading.get_ident))
        await settle()
        assert not aside.done()
        gate.go.set()
        await first
        assert await aside != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await batcher.borrow(lambda: 1 / 0)
        await ask(batcher, 1)

    asyncio.run(scene())


def test_borrowed_work_and_runs_take_turns(gate: Gate, make: Callable[..., Batcher]) -> None:
    """Endless uploads do not block a request, and endless requests do not block an upload."""
    batcher, order = make(max_rows=1), list[str]()

    def note() -> None:
        order.append("aside")

    gate.spoil = lambda inputs, outputs: order.append("run")

    async def scene() -> None:
        first = ask(batcher, 0)
        await gate.running()
        asides = [asyncio.create_task(batcher.borrow(note)) for _ in range(4)]
        runs = [ask(batcher, seed) for seed in range(1, 5)]
        await settle()
        gate.go.set()
        await asyncio.gather(first, *asides, *runs)

    asyncio.run(scene())
    assert order == ["run", *(["aside", "run"] * 4)]


def test_closing_refuses_what_waits_and_waits_for_nothing_itself(
    model: Model, gate: Gate, make: Callable[..., Batcher]
) -> None:
    batcher = make()

    async def scene() -> list[Any]:
        running = ask(batcher, 0)
        await gate.running()
        waiting, aside = ask(batcher, 1), asyncio.create_task(batcher.borrow(threading.get_ident))
        await settle()
        batcher.close()  # on the event loop, during the run
        assert len(batcher.running) == 1
        refused = await asyncio.gather(waiting, ask(batcher, 2), aside, return_exceptions=True)
        assert not running.done()
        gate.go.set()
        return [await running, *refused]

    first, *others = asyncio.run(scene())
    assert np.array_equal(first[0].data, alone(model, 0))
    assert [type(each) for each in others] == [Unavailable] * 3
    assert not batcher.running


def test_a_use_case_of_several_runs_ends_with_an_error_where_its_model_is_closed_between_them(
    gate: Gate, make: Callable[..., Batcher]
) -> None:
    batcher, run = make(), operations.Run("decode", {"latent": np.zeros((1, foreign.LATENT), np.float32)})

    def steps() -> Any:
        yield run
        batcher.close()
        yield run

    gate.go.set()

    async def scene() -> None:
        with pytest.raises(Unavailable):
            await asyncio.wait_for(batcher.drive(steps(), 1, time.monotonic() + 60), 10)

    asyncio.run(scene())


def test_a_batch_that_fails_after_its_model_was_closed_leaves_nobody_waiting(
    gate: Gate, make: Callable[..., Batcher]
) -> None:
    batcher = make()

    def explode(inputs: Mapping[str, Array], outputs: dict[str, Array]) -> None:
        if len(gate.batches) == 2:
            raise RuntimeError("this batch")

    gate.spoil = explode

    async def scene() -> list[Any]:
        first = ask(batcher, 0)
        await gate.running()
        others = [ask(batcher, seed) for seed in (1, 2)]
        await settle()
        gate.go.set()
        await first
        gate.go.clear()
        batcher.close()
        gate.go.set()
        return await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 10)

    assert all(isinstance(each, RuntimeError | Unavailable) for each in asyncio.run(scene()))


def test_borrowed_work_whose_client_has_left_is_not_done(gate: Gate, make: Callable[..., Batcher]) -> None:
    batcher, done = make(), list[int]()

    async def scene() -> None:
        first = ask(batcher, 0)
        await gate.running()
        left, stayed = (asyncio.create_task(batcher.borrow(functools.partial(done.append, n))) for n in (1, 2))
        await settle()
        left.cancel()
        gate.go.set()
        await asyncio.gather(first, stayed)

    asyncio.run(scene())
    assert done == [2]


def test_an_event_loop_that_ends_before_a_run_does_it_no_harm(
    gate: Gate, make: Callable[..., Batcher], caplog: pytest.LogCaptureFixture
) -> None:
    batcher = make()

    async def scene() -> None:
        task = ask(batcher, 0)
        await gate.running()
        task.cancel()
        await settle()

    asyncio.run(scene())
    (left,) = batcher.running
    gate.go.set()
    left.result(30)
    batcher.close()
    assert not caplog.records
