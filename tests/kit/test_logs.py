"""No secret reaches a log line."""

import logging
from io import StringIO

import pytest
import structlog

from kit.logs import masked

KEY = "aip_live_4fT0aB9xQ2Lm_0123456789abcdefghijklmnopqrstuvwxyzAB"
LINK = "sHq2v-0aB9xQ2Lm:0123_456789"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0aaaa.c2lnbmF0dXJlLW9mLWl0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"got {KEY}!", "got aip_live_4fT0aB9xQ2Lm_…!"),
        (f"{KEY} {KEY}", "aip_live_4fT0aB9xQ2Lm_… aip_live_4fT0aB9xQ2Lm_…"),
        (f"'Bearer {TOKEN}'", "'Bearer eyJ…'"),
        ("redis://:hunter2@10.0.0.1:6379/0", "redis://:…@10.0.0.1:6379/0"),
        ("postgresql://app:hunter2@db/x", "postgresql://app:…@db/x"),
        ("http://127.0.0.1:8000/a@b", "http://127.0.0.1:8000/a@b"),
        ("eyJ is a word", "eyJ is a word"),
        ("/api/v1/invitations/17/resend", "/api/v1/invitations/17/resend"),
        (f"GET /invitations/{LINK}?x=1", "GET /invitations/…?x=1"),
        (f"'/accounts/confirm-email/{LINK}/'", "'/accounts/confirm-email/…/'"),
        (f"/accounts/password/reset/key/1a-{LINK}/", "/accounts/password/reset/key/…/"),
        (f"login/?next=%2Finvitations%2F{LINK} 200", "login/?next=%2Finvitations%2F… 200"),
        *[
            (f"key={mark}{'x' * 24}, ok", f"key={mark}…, ok")
            for mark in ("sk_" + "live_", "rk_" + "test_", "whsec_", "sk-", "hvs.")
        ],
        ("risk-assessments-of-the-year", "risk-assessments-of-the-year"),
        ("task_live_long_and_prosper", "task_live_long_and_prosper"),
    ],
)
def test_secrets_are_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_no_logger_and_no_traceback_shows_a_secret(log_lines: StringIO) -> None:
    log = structlog.get_logger("ours")
    log.warning("said", key=KEY, headers={"Authorization": f"Bearer {TOKEN}"})
    logging.getLogger("theirs").error("said %s", KEY)
    try:
        raise ValueError(KEY)
    except ValueError:
        log.exception("broke")
    said = log_lines.getvalue()
    assert said.count("aip_live_4fT0aB9xQ2Lm_…") >= 3
    assert KEY not in said
    assert TOKEN not in said
