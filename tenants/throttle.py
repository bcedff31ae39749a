"""How often somebody may try what can be guessed.

An account is tried 10 times in 15 minutes from one address and 100 times from all: a stranger who
guesses cannot shut its owner out from where they are. One address tries 100 times, whatever the
accounts; of IPv6 that is a /64. Windows begin with their first attempt.
"""

from hashlib import sha256
from pathlib import Path

from kit import origin
from kit.errors import Refused
from kit.redis import Argument, Lua, async_state, state

WINDOW_MS = 15 * 60_000
OF_BOTH, OF_ACCOUNT, OF_ADDRESS = 10, 100, 100

_attempt = Lua(Path(__file__).parent / "lua" / "throttle.lua")


class TooManyAttempts(Refused):
    """Tried too often; `retry_after` is true."""

    status, code = 429, "too_many_attempts"


async def attempt(account: str) -> None:
    """Count one on an account from the running request's address; raises `TooManyAttempts`."""
    _judge(await _attempt.arun(_names(account), _LIMITS))


def attempt_now(account: str) -> None:
    """`attempt`, outside an event loop."""
    _judge(_attempt(_names(account), _LIMITS))


async def succeeded(account: str) -> None:
    """Whoever got in may start anew from there."""
    await async_state().delete(_names(account)[0])


def succeeded_now(account: str) -> None:
    """`succeeded`, outside an event loop."""
    state().delete(_names(account)[0])


LETTERS_OF, LETTERS_OF_BOTH, LETTERS_TO, LETTERS_MS = 200, 5, 20, 24 * 3_600_000
"""Letters with invitations in a day: of an organization, of it to one address, and to that address
from all."""


class TooManyLetters(Refused):
    """An organization has sent, or an address has got, as many as it may; `retry_after` is true."""

    status, code = 429, "too_many_letters"


def letter_now(organization: int, address: str) -> None:
    """Count one more letter that an organization has us send; raises `TooManyLetters`."""
    to = sha256(address.strip().lower().encode()).hexdigest()[:24]
    names = [f"letters:{organization}", f"letters:{organization}:{to}", f"letters:to:{to}"]
    bounds = [LETTERS_OF, LETTERS_OF_BOTH, LETTERS_TO]
    wait_ms = _attempt(names, [each for bound in bounds for each in (bound, LETTERS_MS)])
    if wait_ms > 0:
        seconds = wait_ms / 1000
        raise TooManyLetters(
            f"In a day {LETTERS_OF} invitations go out for an organization, {LETTERS_OF_BOTH} of "
            f"them to an address. Try again in {seconds / 3600:.1f} h.",
            retry_after=seconds,
        )


_LIMITS: list[Argument] = [OF_BOTH, WINDOW_MS, OF_ACCOUNT, WINDOW_MS, OF_ADDRESS, WINDOW_MS]


def _names(account: str) -> list[str]:
    who = sha256(account.strip().lower().encode()).hexdigest()[:24]
    where = origin.counted_as(origin.current().address)
    return [f"tries:{who}:{where}", f"tries:{who}", f"tries:{where}"]


def _judge(wait_ms: int) -> None:
    if wait_ms > 0:
        seconds = wait_ms / 1000
        raise TooManyAttempts(
            f"Too many attempts. Try again in {seconds / 60:.0f} min.", retry_after=seconds
        )
