// OpenAI's client for Node: whole, streamed, the helpers, structured answers, tools, the rest of /v1.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI, { toFile } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ maxRetries: 0 });
const model = process.env.CHAT_MODEL;
const messages = [{ role: "user", content: "What is AI?" }];
const asked = { model, messages, temperature: 0, max_tokens: 24 };
const Person = z.object({ name: z.string(), age: z.number().int() });
const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Rome", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};

test("a chat, whole, streamed and by the helper, says the same", async () => {
  const whole = await client.chat.completions.create(asked);
  const text = whole.choices[0].message.content;
  assert.ok(text);
  let streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    streamed += chunk.choices[0]?.delta?.content ?? "";
  }
  assert.equal(streamed, text);
  const helper = client.chat.completions.stream(asked);
  assert.equal(await helper.finalContent(), text);
});

test("a structured answer is parsed", async () => {
  const found = await client.chat.completions.parse({
    ...asked, max_tokens: 80, response_format: zodResponseFormat(Person, "person"),
  });
  if (found.choices[0].finish_reason === "stop") assert.ok(found.choices[0].message.parsed.name);
});

test("a tool is called with arguments of its schema", async () => {
  const tools = [{ type: "function", function: { name: "weather", parameters } }];
  const found = await client.chat.completions.create({
    ...asked, max_tokens: 80, tools, tool_choice: "required",
  });
  const [call] = found.choices[0].message.tool_calls;
  assert.equal(call.function.name, "weather");
  assert.ok(["Rome", "Oslo"].includes(JSON.parse(call.function.arguments).city));
});

test("a response, whole, streamed, parsed and gone on from", async () => {
  const first = await client.responses.create({ model, input: "What is AI?", max_output_tokens: 24 });
  assert.ok(first.output_text);
  const stream = client.responses.stream({
    model, input: "Go on.", previous_response_id: first.id, max_output_tokens: 24,
  });
  let text = "";
  for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
  assert.equal((await stream.finalResponse()).output_text, text);
  const parsed = await client.responses.parse({
    model, input: "A person.", text: { format: zodTextFormat(Person, "person") }, max_output_tokens: 80,
  });
  if (parsed.status === "completed") assert.ok(parsed.output_parsed.name);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), { status: 404 });
});

test("embeddings, moderations, models, files and batches", async () => {
  const { data } = await client.embeddings.create({ model: process.env.EMBEDDING_MODEL, input: "a cat" });
  assert.equal(data[0].embedding.length, 384);
  const { results } = await client.moderations.create({ input: "I will kill you." });
  assert.ok(results[0].flagged);
  const names = [];
  for await (const each of client.models.list()) names.push(each.id);
  assert.ok(names.includes(model));
  const line = { custom_id: "a", method: "POST", url: "/v1/chat/completions", body: asked };
  const file = await client.files.create({
    file: await toFile(Buffer.from(JSON.stringify(line)), "in.jsonl"), purpose: "batch",
  });
  let batch = await client.batches.create({
    input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h",
  });
  while (!batch.completed_at && !batch.failed_at) {
    await new Promise((wake) => setTimeout(wake, 200));
    batch = await client.batches.retrieve(batch.id);
  }
  const answers = await (await client.files.content(batch.output_file_id)).text();
  assert.equal(JSON.parse(answers).response.status_code, 200);
});

test("errors are OpenAI's", async () => {
  await assert.rejects(client.chat.completions.create({ ...asked, model: "none" }), {
    status: 404, code: "model_not_found",
  });
  await assert.rejects(client.chat.completions.create({ ...asked, temperature: 9 }), {
    status: 400, param: "temperature",
  });
});
