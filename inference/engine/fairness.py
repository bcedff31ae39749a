"""Who was served how much: the organization served least comes first."""

from collections.abc import Iterable


class Served:
    """Virtual token counters (Sheng et al. 2024, "Fairness in Serving Large Language Models").

    A token of a prompt counts 1, one of an answer 2, one from the cache nothing. Who comes back
    from a pause is lifted to the least of those that are here: absence saves up no claim.
    """

    PROMPT, ANSWER = 1, 2

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}

    def __getitem__(self, tenant: str) -> int:
        return self._tokens.get(tenant, 0)

    def enter(self, tenant: str, present: Iterable[str]) -> None:
        """A request of an organization arrives, beside those of the present ones.

        Those absent keep what they were served above the floor; what lies below it is forgotten.
        """
        others = set(present)
        if tenant in others:
            return
        floor = min((self[other] for other in others), default=None)
        if floor is None:
            self._tokens = {}
            return
        self._tokens = {
            one: tokens for one, tokens in self._tokens.items() if one in others or tokens > floor
        }
        self._tokens.setdefault(tenant, floor)

    def charge(self, tenant: str, tokens: int) -> None:
        """Note what an organization was served."""
        self._tokens[tenant] = self[tenant] + tokens
