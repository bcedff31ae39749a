"""Stop strings: where a text ends before the model does."""


class Stops:
    """Lets text through, except what is or may yet become a stop string.

    The stop string completed first ends the text (of those completed by the same character, the
    longest), so the borders between pushes change nothing.
    """

    def __init__(self, strings: tuple[str, ...]) -> None:
        self._strings = strings
        self._longest = max(map(len, strings), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may be delivered now, and whether a stop string ended it."""
        if not self._strings:
            return text, False
        held = self._held + text
        start = self._first(held)
        if start is not None:
            self._held = ""
            return held[:start], True
        border = len(held) - self._undecided(held)
        self._held = held[border:]
        return held[:border], False

    def flush(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> int | None:
        found = ((text.find(stop), len(stop)) for stop in self._strings)
        ends = [(start + length, start) for start, length in found if start >= 0]
        return min(ends)[1] if ends else None

    def _undecided(self, text: str) -> int:
        for length in range(min(len(text), self._longest - 1), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._strings):
                return length
        return 0
