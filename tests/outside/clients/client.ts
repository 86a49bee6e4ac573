// Uses a client that openapi-typescript generated from the service's description: it compiles only if what is sent, and what is
// read of the answers, is described as it is.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

const client = createClient<paths>({
  baseUrl: process.env.TIDEGATE_URL!,
  headers: { authorization: `Bearer ${process.env.TIDEGATE_KEY}` },
});

const event = await client.POST("/api/v1/events", {
  params: { query: { ack: "committed" }, header: { "x-trace-id": "typescript" } },
  body: { kind: "signup", n: 1 },
});
assert.equal(event.response.status, 201);
assert.equal(event.response.headers.get("x-trace-id"), "typescript");

const text = await client.POST("/api/v1/events", {
  body: "not JSON",
  headers: { "content-type": "text/plain" },
  bodySerializer: (body) => body as string,
});
assert.equal(text.response.status, 202);

const batch = await client.POST("/api/v1/events/batch", {
  params: { query: { ack: "committed" } },
  body: [{ n: 1 }, { n: 2 }],
});
assert.equal(batch.data?.accepted, 2);
assert.deepEqual(batch.data?.rejected, []);

const record = await client.POST("/api/stress/records/{collection}", {
  params: { path: { collection: "typescript" } },
  body: { name: "a" },
});
const read = await client.GET("/api/stress/records/{collection}/{id}", {
  params: { path: { collection: "typescript", id: record.data!.id! } },
});
assert.equal(read.data?.name, "a");

const conversation = await client.POST("/api/conversations", { body: { title: "From TypeScript" } });
const id = conversation.data!.id;
const message = await client.POST("/api/conversations/{id}/messages", {
  params: { path: { id } },
  body: { role: "user", content: [{ type: "text", text: "Hello" }] },
});
assert.equal(message.response.status, 201);
const messages = await client.GET("/api/conversations/{id}/messages", { params: { path: { id } } });
assert(Array.isArray(messages.data));
assert.deepEqual(messages.data[0]?.content, [{ type: "text", text: "Hello" }]);

const refused = await client.GET("/api/conversations/{id}", {
  params: { path: { id: "00000000-0000-4000-8000-000000000000" } },
});
assert.equal(refused.error?.error.code, "not_found");
console.log("typescript: ok");
