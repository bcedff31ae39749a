"""LangChain's own standard suites on langchain-openai, with nothing changed but address and key."""

import os
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

CHAT = {"model": os.environ["CHAT_MODEL"], "stream_usage": True}
"""Usage in streams must be asked for where the address is not OpenAI's."""
EMBEDDINGS = {"model": os.environ["EMBEDDING_MODEL"], "check_embedding_ctx_length": False}
"""Without the last it would count, and send, tokens of OpenAI's own models."""


class TestChatUnits(ChatModelUnitTests):
    """Without a server."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return dict(CHAT)


class TestChat(ChatModelIntegrationTests):
    """Chats, whole, streamed and in batches; tools, structured answers, usage."""

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {**super().standard_chat_model_params, "max_tokens": 200}

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return dict(CHAT)


class TestResponses(TestChat):
    """The same over /v1/responses."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**CHAT, "use_responses_api": True}


class TestEmbeddingsUnits(EmbeddingsUnitTests):
    """Without a server."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return dict(EMBEDDINGS)


class TestEmbeddings(EmbeddingsIntegrationTests):
    """Texts and queries, at once and async."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return dict(EMBEDDINGS)


def test_completions_go_out_in_batches_of_prompts() -> None:
    model = OpenAI(model=os.environ["CHAT_MODEL"], temperature=0, max_tokens=8)
    answers = model.batch([f"The number {number} is" for number in range(25)])
    assert len(answers) == 25
    assert all(answers)


@pytest.fixture(autouse=True)
def _no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
