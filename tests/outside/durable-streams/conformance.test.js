import { runConformanceTests } from "@durable-streams/server-conformance-tests"

runConformanceTests({
  baseUrl: process.env.TIDEGATE_URL,
  subscriptions: process.env.SUBSCRIPTIONS !== "off",
  longPollTimeoutMs: Number(process.env.STREAMS_LONG_POLL_TIMEOUT_MS),
})
