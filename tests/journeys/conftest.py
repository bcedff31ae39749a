"""One platform for all journeys."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from config.stack.apart import Stack, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The platform, ready."""
    with running(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def openai(stack: Stack) -> Iterator[OpenAI]:
    """OpenAI's client, with nothing changed but its address and key."""
    with OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as client:
        yield client
