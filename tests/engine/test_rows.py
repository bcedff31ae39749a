"""Slots and rows of the cache."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inference.engine.rows import Rows
from inference.engine.slots import Slots

SLOTS = 6


class Cache(RuleBasedStateMachine):
    """Slots come, decode and go at random; a row's content moves with its slot."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = Rows(SLOTS)
        self.content: dict[int, int] = {}
        self.used: set[int] = set()

    @rule(slot=st.integers(0, SLOTS - 1))
    def fill(self, slot: int) -> None:
        self.content[self.rows.of(slot)] = slot
        self.used.add(slot)

    @rule(slot=st.integers(0, SLOTS - 1))
    def release(self, slot: int) -> None:
        self.rows.release(slot)
        self.used.discard(slot)

    @rule(data=st.data(), times=st.integers(1, 8))
    def decode(self, data: st.DataObject, times: int) -> None:
        if not self.used:
            return
        slots = data.draw(st.lists(st.sampled_from(sorted(self.used)), min_size=1, unique=True))
        for _ in range(times):
            move = self.rows.move(slots)
            if move:
                source, target = move
                assert target < source
                self.content[target] = self.content[source]
        assert set(map(self.rows.of, slots)) <= set(self.rows.span(slots))

    @invariant()
    def each_slot_finds_its_own_content(self) -> None:
        self.rows.check()
        assert all(self.content[self.rows.of(slot)] == slot for slot in self.used)


TestCache = Cache.TestCase


def test_decoding_rows_come_to_lie_side_by_side() -> None:
    rows = Rows(8)
    for slot in range(8):
        rows.of(slot)
    for slot in (1, 2, 4, 5, 6):
        rows.release(slot)
    for _ in range(20):
        rows.move([0, 3, 7])
    assert rows.span([0, 3, 7]) == range(3)


def test_a_gap_that_a_newcomer_fills_moves_nothing() -> None:
    rows = Rows(3)
    for slot in range(3):
        rows.of(slot)
    rows.release(1)
    assert rows.move([0, 2]) is None
    rows.of(1)
    assert all(rows.move([0, 1, 2]) is None for _ in range(20))


@given(takes=st.lists(st.booleans(), max_size=40))
def test_slots_are_given_once_and_the_lowest_first(takes: list[bool]) -> None:
    slots, held = Slots(4), list[int]()
    for take in takes:
        if take and slots.free:
            slot = slots.take()
            assert slot == min(set(range(4)) - set(held))
            held.append(slot)
        elif held:
            slots.give(held.pop(0))
        slots.check()
        assert slots.free == 4 - len(held)


def test_a_slot_is_given_back_once() -> None:
    slots = Slots(2)
    slots.give(slots.take())
    with pytest.raises(KeyError):
        slots.give(0)


def test_an_engine_needs_a_slot() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Slots(0)
