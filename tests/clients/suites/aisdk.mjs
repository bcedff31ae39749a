// Vercel's AI SDK: text, streams, objects, tools and embeddings, over chats and over responses.
import assert from "node:assert/strict";
import test from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { embed, generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL });
const name = process.env.CHAT_MODEL;
const how = { prompt: "What is AI?", temperature: 0, maxOutputTokens: 24, maxRetries: 0 };

for (const [kind, model] of [["chats", openai.chat(name)], ["responses", openai.responses(name)]]) {
  test(`${kind}: text, whole and streamed`, async () => {
    const { text, usage } = await generateText({ ...how, model });
    assert.ok(text);
    assert.ok(usage.totalTokens > 0);
    let streamed = "";
    for await (const part of streamText({ ...how, model }).textStream) streamed += part;
    assert.equal(streamed, text);
  });

  test(`${kind}: an object of a schema`, async () => {
    const { object } = await generateObject({
      ...how, model, maxOutputTokens: 120, schema: z.object({ city: z.enum(["Rome", "Oslo"]) }),
    });
    assert.ok(["Rome", "Oslo"].includes(object.city));
  });

  test(`${kind}: a tool`, async () => {
    const weather = tool({
      description: "The weather.",
      inputSchema: z.object({ city: z.enum(["Rome", "Oslo"]) }),
      execute: async ({ city }) => `${city}: sunny`,
    });
    const { toolCalls, toolResults } = await generateText({
      ...how, model, maxOutputTokens: 80, tools: { weather }, toolChoice: "required",
    });
    assert.equal(toolCalls[0].toolName, "weather");
    assert.ok(toolResults[0].output.endsWith("sunny"));
  });
}

test("an embedding", async () => {
  const { embedding } = await embed({
    model: openai.textEmbeddingModel(process.env.EMBEDDING_MODEL), value: "a cat",
  });
  assert.equal(embedding.length, 384);
});
