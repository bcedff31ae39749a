"""Second factors: who has one, whether a code is theirs, and how their secrets are kept."""

from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator

from kit.envelope import Place
from tenants import datakeys, sealing
from tenants.models import User
from tenants.tokens import NotLoggedIn


class SecondFactorNeeded(NotLoggedIn):
    """The password is right, and not enough."""

    code = "second_factor_required"


class WrongSecondFactor(NotLoggedIn):
    """Neither the app's code of this moment nor an unused recovery code."""

    code = "wrong_second_factor"


class FactorAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Secrets of authenticator apps and recovery codes are sealed under the platform's data key."""

    _PLACE = Place(datakeys.PLATFORM, "second factor", "")

    def encrypt(self, text: str) -> str:
        """As stored."""
        return sealing.seal(text, self._PLACE)

    def decrypt(self, encrypted_text: str) -> str:
        """What was sealed."""
        return sealing.unseal(encrypted_text, self._PLACE)


def are_set(user: User) -> bool:
    """Whether a password alone does not let the person in."""
    return bool(Authenticator.objects.filter(user=user).exists())


def take_away(user: User) -> None:
    """For a person who has lost them, and proven otherwise to an operator who they are."""
    Authenticator.objects.filter(user=user).delete()


def check(user: User, code: str) -> bool:
    """Whether the person has a second factor, and this is its code, which is good once.

    Raises `SecondFactorNeeded`, `WrongSecondFactor`.
    """
    if not are_set(user):
        return False
    if not code:
        raise SecondFactorNeeded(
            "Send the code of your authenticator app, or a recovery code, in the field 'code'."
        )
    coded = Authenticator.objects.filter(user=user).exclude(type=Authenticator.Type.WEBAUTHN)
    for factor in coded:
        if factor.wrap().validate_code(code):
            factor.record_usage()
            return True
    raise WrongSecondFactor("This code is not good now, or was used before.")
