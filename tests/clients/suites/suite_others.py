"""LlamaIndex and LiteLLM's client: each asks whole, streamed and async, and embeds."""

import os
from typing import Any

import litellm
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

CHAT, EMBEDDING = os.environ["CHAT_MODEL"], os.environ["EMBEDDING_MODEL"]
BASE = os.environ["OPENAI_BASE_URL"]
ASKED = [{"role": "user", "content": "What is AI?"}]


class Ours(OpenAI):
    """LlamaIndex wants to know how much a model reads, and knows OpenAI's alone."""

    @property
    def metadata(self) -> Any:
        from llama_index.core.llms import LLMMetadata

        return LLMMetadata(context_window=4096, is_chat_model=True, model_name=self.model)


async def test_llama_index_chats_streams_and_embeds() -> None:
    model = Ours(model=CHAT, api_base=BASE, temperature=0, max_tokens=16)
    asked = [ChatMessage(role="user", content="What is AI?")]
    whole = model.chat(asked).message.content
    assert whole
    assert [*model.stream_chat(asked)][-1].message.content == whole
    assert (await model.achat(asked)).message.content == whole
    assert model.complete("What is AI?").text
    embedder = OpenAIEmbedding(model_name=EMBEDDING, api_base=BASE)
    near, far = embedder.get_text_embedding_batch(["a kitten", "a bill"])
    query = embedder.get_query_embedding("a cat")
    assert embedder.similarity(query, near) > embedder.similarity(query, far)


async def test_litellms_client_chats_streams_responds_and_embeds() -> None:
    how = {"model": f"openai/{CHAT}", "api_base": BASE, "temperature": 0, "max_tokens": 16}
    whole = litellm.completion(messages=ASKED, **how)
    text = whole.choices[0].message.content
    assert text
    assert whole.usage.total_tokens > 0
    parts = litellm.completion(messages=ASKED, stream=True, **how)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text
    assert (await litellm.acompletion(messages=ASKED, **how)).choices[0].message.content == text
    response = litellm.responses(
        model=f"openai/{CHAT}", input="What is AI?", api_base=BASE, max_output_tokens=16
    )
    assert response.output[0].content[0].text
    found = litellm.embedding(
        model=f"openai/{EMBEDDING}", input=["a cat"], api_base=BASE, encoding_format="float"
    )
    assert len(found.data[0]["embedding"]) == 384
