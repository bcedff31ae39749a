"""The key-value cache: who holds which slot, how many tokens find room, and what is used again."""

from inference.engine.runner import Runner, Wearing
from inference.engine.sequence import Sequence
from inference.engine.shelf import Kept, Shelf
from inference.engine.slots import Slots


class Cache:
    """`slots` places for running sequences, the runner's shelves, and `room` tokens in all.

    A sequence counts with all its tokens from the moment it holds a slot. Shelves give way to
    running sequences.
    """

    def __init__(self, runner: Runner, *, slots: int, room: int, chunk: int) -> None:
        if room < runner.context:
            raise ValueError(f"{room} tokens of cache cannot hold a context of {runner.context}")
        self._runner = runner
        self._wearing = runner if isinstance(runner, Wearing) else None
        self._room = room
        self._chunk = chunk
        self._slots = Slots(slots)
        self._holders: dict[int, Sequence] = {}
        self._shelf = Shelf(range(runner.slots, runner.slots + runner.shelves))

    def take(self, sequence: Sequence) -> bool:
        """Give a sequence a slot, if one is free and its tokens and a chunk more find room."""
        needs = len(sequence.tokens) + self._chunk
        if not self._slots.free or (self._holders and self._running() + needs > self._room):
            return False
        sequence.slot = self._slots.take()
        self._holders[sequence.slot] = sequence
        if self._wearing is not None:
            self._wearing.wear(sequence.slot, sequence.work.adapter)
        return True

    def reuse(self, sequence: Sequence) -> None:
        """Begin with the most tokens that anybody of the same organization has computed."""
        running = (
            _holds(one)
            for one in self._holders.values()
            if one is not sequence and one.work.salt == sequence.work.salt
        )
        found = [(one.serves(sequence, self._chunk), one) for one in (*self._shelf, *running)]
        length, source = max(found, key=lambda each: each[0], default=(0, None))
        if source is not None and length:
            self._runner.copy(source.place, sequence.place, length)
            self._shelf.touch(source.place)
        sequence.begin(length)

    def give(self, sequence: Sequence, *, keep: int) -> None:
        """Free a sequence's slot; its first `keep` computed tokens are kept if there is a shelf."""
        if keep:
            self._keep(_holds(sequence), keep)
        slot = sequence.place
        self._runner.release(slot)
        self._slots.give(slot)
        del self._holders[slot]
        sequence.slot = None
        self.is_short()

    def is_short(self) -> bool:
        """Whether those that run need more than there is, though every shelf gave way."""
        while self._running() + self._shelf.tokens > self._room:
            place = self._shelf.drop()
            if place is None:
                return True
            self._runner.release(place)
        return False

    def check(self) -> None:
        """Raise if places, sequences and tokens disagree."""
        self._slots.check()
        self._shelf.check()
        if any(sequence.slot != slot for slot, sequence in self._holders.items()):
            raise RuntimeError("a sequence does not know its slot")
        if self._slots.count - self._slots.free != len(self._holders):
            raise RuntimeError("a slot is held by no sequence")
        stored = sum(sequence.computed for sequence in self._holders.values())
        if stored + self._shelf.tokens > self._room:
            raise RuntimeError(f"more than {self._room} tokens in the cache")

    def _running(self) -> int:
        return sum(len(sequence.tokens) for sequence in self._holders.values())

    def _keep(self, held: Kept, length: int) -> None:
        tokens = held.tokens[:length]
        place = self._shelf.place_for(tokens, held.tenant)
        if place is not None:
            self._runner.copy(held.place, place, len(tokens))
            self._shelf.put(Kept(place, held.tenant, tokens, min(held.prompt, len(tokens))))


def _holds(sequence: Sequence) -> Kept:
    """What stands in a running sequence's slot."""
    tokens = sequence.tokens[: sequence.computed]
    return Kept(
        sequence.place, sequence.work.salt, tokens, min(len(sequence.work.prompt), len(tokens))
    )
