"""Short secrets in columns of text: sealed under an organization's data key, or the platform's."""

from base64 import b64decode, b64encode

from kit.envelope import Place, sealed_under
from tenants import datakeys


def seal(text: str, place: Place) -> str:
    """As stored; it opens at this place alone."""
    return b64encode(datakeys.ring(place.organization).seal(text.encode(), place)).decode()


def unseal(sealed: str, place: Place) -> str:
    """What was sealed; raises `kit.envelope.Unreadable`."""
    raw = b64decode(sealed)
    return datakeys.ring(place.organization, needs=sealed_under(raw)).unseal(raw, place).decode()
