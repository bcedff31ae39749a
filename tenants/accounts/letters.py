"""Mail that the organizations' rooms send, beside what allauth sends of accounts."""

from collections.abc import Callable

import structlog
from django.core.mail import EmailMessage
from django.template.loader import render_to_string

from tenants.invitations import Letter

log = structlog.get_logger()


def invitation(address: Callable[[str], str]) -> Callable[[Letter], None]:
    """A sender of invitations; `address` makes the absolute link of a token.

    A mail server that does not take it is logged: the invitation stands and can be sent again.
    """

    def send(letter: Letter) -> None:
        context = {"letter": letter, "link": address(letter.token)}
        text = render_to_string("portal/mail/invitation.txt", context)
        subject = f"Join {letter.organization} on the AI Inference Platform"
        message = EmailMessage(" ".join(subject.split()), text, to=[letter.email])
        try:
            message.send()
        except OSError as error:
            log.error("an invitation could not be sent", error=str(error))

    return send
