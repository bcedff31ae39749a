"""Ten thousand requests of every kind leave no slot, thread or byte behind."""

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
import pytest

from inference.engine import Engine, Work, load_engine
from inference.engine.echo import EchoRunner
from inference.engine.text import ByteText
from tests.engine.parts import work

REQUESTS = 10_000
GROWTH = 8 << 20
"""Bytes of resident memory that allocators may keep for themselves."""

pytestmark = pytest.mark.timeout(600)


def requests(random: Random, *, highest: int) -> Iterator[Work]:
    """Short and long, greedy and sampled, of five organizations, some with a prefix in common."""
    stems = [[random.randint(10, highest) for _ in range(70)] for _ in range(4)]
    for number in range(REQUESTS):
        prompt = [random.randint(10, highest) for _ in range(random.choice([1, 2, 9]))]
        yield work(
            str(number),
            random.choice([[], [], [], *stems]) + prompt,
            max_tokens=random.choice([1, 2, 5]),
            temperature=random.choice([0.0, 1.0]),
            top_p=random.choice([0.8, 1.0]),
            seed=number,
            stop=random.choice([(), ("e",)]),
            priority=random.randint(0, 2),
            tenant=str(random.randint(0, 4)),
        )


def run(engine: Engine, works: Iterator[Work], random: Random) -> None:
    """Keep a dozen requests in the engine, cancelling some; memory must stay where it was."""
    process, held = psutil.Process(os.getpid()), set[str]()
    threads, settled, ended = threading.active_count(), 0, 0
    for each in works:
        while len(held) >= 12:
            ended += _step(engine, held)
        engine.submit(each)
        held.add(each.id)
        if random.random() < 0.05:
            engine.cancel(random.choice(sorted(held)))
        if int(each.id) == REQUESTS // 3:
            gc.collect()
            settled = process.memory_info().rss
    while held:
        ended += _step(engine, held)
    gc.collect()
    assert ended == REQUESTS
    assert (engine.free_slots, engine.stats().running) == (8, 0)
    assert threading.active_count() <= threads  # others' of this process may have ended
    assert process.memory_info().rss - settled < GROWTH


def _step(engine: Engine, held: set[str]) -> int:
    """How many ended in a step."""
    ended = {delta.id for delta in engine.step() if delta.outcome}
    engine.check()
    assert ended <= held
    held -= ended
    return len(ended)


def test_on_the_echo_model() -> None:
    random = Random(1)  # noqa: S311  repeatable, not secret
    engine = Engine(EchoRunner(slots=8, context=256), ByteText(256), cache_tokens=600)
    run(engine, requests(random, highest=250), random)


def test_on_a_tiny_llama(tiny: Path) -> None:
    random = Random(2)  # noqa: S311  repeatable, not secret
    run(load_engine(tiny / "int8", slots=8, threads=1), requests(random, highest=200), random)
