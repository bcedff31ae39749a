"""Idempotency-Key: what every endpoint that takes one asks of it."""

from kit.errors import Invalid, Refused

HEADER = "Idempotency-Key"
_LONGEST = 255


class KeyReused(Refused):
    """An Idempotency-Key that came with another body before."""

    status, code = 409, "idempotency_key_reused"

    @classmethod
    def of(cls, key: str) -> "KeyReused":
        """Of this key."""
        return cls(
            f"The Idempotency-Key {key!r} came with another body before; use a new key for a new "
            "request.",
            param=HEADER,
        )


def checked(key: str) -> str:
    """The key; raises `Invalid` for one that is none."""
    if not 0 < len(key) <= _LONGEST or not key.isascii() or not key.isprintable():
        raise Invalid(f"{HEADER} must be 1 to {_LONGEST} printable ASCII characters.", param=HEADER)
    return key
