// The official clients of Durable Streams write and read while the service is killed (-9) and restarted, and while its Postgres is stopped at once
// and started again. It starts both: $TIDEGATE is the program, $DATA an empty folder, $PORT and the port above it are free.
//
// usage: node clients.js [rounds, 1]

import assert from "node:assert/strict"
import { spawn } from "node:child_process"
import { mkdirSync, readFileSync } from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"

import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"
import { MaterializedState, createStateSchema } from "@durable-streams/state"
import { createStreamDB } from "@durable-streams/state/db"

const { TIDEGATE, DATA } = process.env
const PORT = Number(process.env.PORT ?? 3496)
const ROUNDS = Number(process.argv[2] ?? 1)
const BASE = `http://127.0.0.1:${PORT}/v1/stream`
// Milliseconds of load before, between and behind the outages.
const LOAD = 1500
// Short pauses: the default grows up to a minute.
const backoffOptions = { initialDelay: 50, maxDelay: 500, multiplier: 1.3, maxRetries: Infinity }

// A process of the service, restarted with the same settings.
class Service {
  constructor(name, port, settings) {
    const folder = `${DATA}/${name}`
    mkdirSync(folder)
    this.settings = {
      DATA_DIR: folder, PORT: String(port), LOG_FORMAT: "json", JOURNAL_MIN_FREE: "0", JOURNAL_MAX_BYTES: "33554432", ...settings,
    }
    this.folder = folder
  }

  async start() {
    const env = { PATH: process.env.PATH, HOME: process.env.HOME, ...this.settings }
    this.child = spawn(TIDEGATE, ["serve"], { env, stdio: ["ignore", "ignore", "pipe"] })
    running.add(this.child)
    this.ended = new Promise((resolve) => this.child.once("exit", resolve))
    let log = ""
    await new Promise((resolve, reject) => {
      this.child.stderr.on("data", (piece) => {
        if (log.length < 1 << 20) log += piece
        if (log.includes("listening on")) resolve()
        if (/panicked at/.test(piece)) faults.push(String(piece))
      })
      this.ended.then(() => reject(new Error(`the service ended: ${log}`)))
    })
  }

  async kill(signal) {
    this.child.kill(signal)
    await this.ended
  }
}

const faults = []
const running = new Set()
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")))
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1))

const owner = new Service("postgres", PORT + 1, { MODULES: "events" })

function run(args, settings) {
  return new Promise((resolve, reject) => {
    const child = spawn(TIDEGATE, args, { env: { PATH: process.env.PATH, HOME: process.env.HOME, ...settings } })
    let out = ""
    child.stdout.on("data", (piece) => (out += piece))
    child.once("exit", (code) => (code === 0 ? resolve(out.trim()) : reject(new Error(`${args}: ${code}`))))
  })
}

// Stops Postgres at once, as a crash does, and starts it again.
async function postgresOutage() {
  const postmaster = Number(readFileSync(`${owner.folder}/postgres/postmaster.pid`, "utf8").split("\n")[0])
  process.kill(postmaster, "SIGQUIT")
  await owner.kill("SIGKILL")
  await sleep(700)
  await owner.start()
}

// The producer leaves retries to its caller: the same request again, until it has an answer.
const patientFetch = async (...request) => {
  for (;;) {
    try {
      const response = await fetch(...request)
      if (response.status < 500 && response.status !== 429) return response
      await response.arrayBuffer()
    } catch {
      // The service is away.
    }
    await sleep(20 + Math.random() * 100)
  }
}

let isOver = false

// A producer's lines, each sent once. Two producers share one stream.
async function produceText(path, name) {
  const target = new DurableStream({ url: `${BASE}/${path}`, contentType: "text/plain", backoffOptions })
  const errors = []
  const options = { fetch: patientFetch, lingerMs: 1, maxBatchBytes: 400, onError: (error) => errors.push(error) }
  const producer = new IdempotentProducer(target, name, options)
  const sent = []
  while (!isOver) {
    for (let n = 0; n < 20; n++) {
      const line = `${name} ${sent.length} é€😀`
      sent.push(line)
      producer.append(`${line}\n`)
    }
    await producer.flush()
    assert.deepEqual(errors, [])
  }
  return { producer, sent }
}

// Appends without a producer: what had no answer is sent again, and may be there twice.
async function appendJson(path) {
  const target = new DurableStream({ url: `${BASE}/${path}`, contentType: "application/json", backoffOptions })
  let sent = 0
  while (!isOver) {
    await Promise.all(Array.from({ length: 10 }, () => target.append(JSON.stringify({ n: sent++ }))))
  }
  return sent
}

// Follows a stream to its end, and continues behind a broken connection.
async function follow(path, live) {
  const read = { live, text: "", items: [], connections: 0 }
  let offset = "-1"
  for (;;) {
    try {
      read.connections++
      const response = await stream({ url: `${BASE}/${path}`, offset, live, backoffOptions })
      if (response.contentType.startsWith("application/json")) {
        response.subscribeJson((batch) => {
          read.items.push(...batch.items)
          offset = batch.offset
        })
      } else {
        response.subscribeText((chunk) => {
          read.text += chunk.text
          offset = chunk.offset
        })
      }
      await response.closed
      if (response.streamClosed) return read
    } catch (error) {
      if (process.env.VERBOSE) console.log(`${path} ${live}: ${error.message}`)
      await sleep(50)
    }
  }
}

const any = { "~standard": { version: 1, vendor: "tidegate", validate: (value) => ({ value }) } }
const schema = createStateSchema({ users: { schema: any, type: "user", primaryKey: "id" } })

// Changes of a state, and the state that they lead to.
async function produceState(path) {
  const target = new DurableStream({ url: `${BASE}/${path}`, contentType: "application/json", backoffOptions })
  const errors = []
  const options = { fetch: patientFetch, lingerMs: 1, onError: (error) => errors.push(error) }
  const producer = new IdempotentProducer(target, "state", options)
  const state = new Map()
  let changes = 0
  while (!isOver) {
    const key = String(Math.floor(Math.random() * 50))
    const txid = String(++changes)
    if (state.has(key) && Math.random() < 0.3) {
      producer.append(JSON.stringify(schema.users.delete({ key, headers: { txid } })))
      state.delete(key)
    } else {
      const value = { id: key, name: `n${changes}` }
      const change = state.has(key) ? schema.users.update : schema.users.insert
      producer.append(JSON.stringify(change({ key, value, headers: { txid } })))
      state.set(key, value.name)
    }
    await producer.flush()
    assert.deepEqual(errors, [])
  }
  return { producer, state, changes }
}

const names = (rows) => Object.fromEntries([...rows].sort(([a], [b]) => Number(a) - Number(b)))

// The state as a database that follows the stream has it, once it has seen a change.
async function materialised(path, live, change) {
  for (let attempt = 0; ; attempt++) {
    const db = createStreamDB({ streamOptions: { url: `${BASE}/${path}`, contentType: "application/json", backoffOptions }, live, state: schema })
    try {
      await db.preload()
      await db.utils.awaitTxId(change, 10_000)
      return names([...db.collections.users.values()].map((user) => [user.id, user.name]))
    } catch (error) {
      if (attempt === 5) throw error
    } finally {
      db.close()
    }
  }
}

// A reader's connection ends by itself after about a minute, so that caches can share it.
async function rotation(path) {
  const begun = Date.now()
  const response = await fetch(`${BASE}/${path}?offset=now&live=sse`)
  for await (const _ of response.body);
  const seconds = (Date.now() - begun) / 1000
  assert.ok(seconds > 50 && seconds < 70, `the connection ended after ${seconds} s`)
}

function checkText(text, written) {
  const lines = text.split("\n")
  assert.equal(lines.pop(), "", "the last line is whole")
  for (const { sent, name } of written) {
    // In order, each once: what was acknowledged is all that was sent, and nothing is doubled.
    assert.deepEqual(lines.filter((line) => line.startsWith(`${name} `)), sent)
  }
  assert.equal(lines.length, written.reduce((sum, { sent }) => sum + sent.length, 0))
}

async function main() {
  const started = Date.now()
  await owner.start()
  const url = await run(["url"], owner.settings)
  const settings = { MODULES: "events,streams", DATABASE_URL: url, STREAMS_LONG_POLL_TIMEOUT_MS: "2000" }
  const service = new Service("service", PORT, settings)
  await service.start()
  await DurableStream.create({ url: `${BASE}/clients/text`, contentType: "text/plain" })
  for (const path of ["clients/json", "clients/state"]) {
    await DurableStream.create({ url: `${BASE}/${path}`, contentType: "application/json" })
  }
  const followed = ["long-poll", "sse"].flatMap((live) => ["clients/text", "clients/json"].map((path) => follow(path, live)))
  // Opened before the outages, and left alone: long-polls go on by themselves.
  const early = createStreamDB({
    streamOptions: { url: `${BASE}/clients/state`, contentType: "application/json", backoffOptions }, live: "long-poll", state: schema,
  })
  await early.preload()
  const writers = [produceText("clients/text", "p0"), produceText("clients/text", "p1"), appendJson("clients/json"), produceState("clients/state")]
  for (let round = 0; round < ROUNDS; round++) {
    await sleep(LOAD)
    await service.kill("SIGKILL")
    await sleep(200)
    await service.start()
    await sleep(LOAD)
    await postgresOutage()
    await sleep(LOAD)
  }
  isOver = true
  const [p0, p1, json, state] = await Promise.all(writers)
  assert.ok(p0.sent.length > 100 && json > 100 && state.changes > 20, `too few: ${p0.sent.length}, ${json}, ${state.changes}`)

  const txid = String(state.changes)
  const expected = names(state.state)
  await early.utils.awaitTxId(txid, 10_000).catch(() => console.log("the early database was cut off"))
  for (const live of ["long-poll", "sse"]) assert.deepEqual(await materialised("clients/state", live, txid), expected)
  const events = await (await stream({ url: `${BASE}/clients/state`, live: false })).json()
  assert.equal(events.length, state.changes, "each change is there once")
  const fold = new MaterializedState()
  for (const event of events) fold.apply(event)
  assert.deepEqual(names([...fold.getType("user")].map(([key, user]) => [key, user.name])), expected)
  early.close()

  if (ROUNDS > 1) await rotation("clients/state")

  // The last line comes with the end of the stream.
  p0.sent.push("p0 end")
  await p0.producer.close("p0 end\n")
  await assert.rejects(new DurableStream({ url: `${BASE}/clients/text`, contentType: "text/plain" }).append("x"), /closed/i)
  await new DurableStream({ url: `${BASE}/clients/json`, backoffOptions }).close()
  const reads = await Promise.all(followed)
  const written = [{ name: "p0", sent: p0.sent }, { name: "p1", sent: p1.sent }]
  const whole = { text: await (await stream({ url: `${BASE}/clients/text`, live: false })).text() }
  whole.items = await (await stream({ url: `${BASE}/clients/json`, live: false })).json()
  checkText(whole.text, written)
  const numbers = new Set(whole.items.map((item) => item.n))
  assert.deepEqual([numbers.size, Math.max(...numbers)], [json, json - 1], "all that was acknowledged is read, and nothing else")
  for (const read of reads) {
    assert.ok(read.text === whole.text || read.items.length > 0)
    if (read.items.length > 0) assert.deepEqual(read.items, whole.items, `${read.live} reads what is there, once`)
  }
  await service.kill("SIGTERM")
  assert.equal(service.child.exitCode, 0)
  await owner.kill("SIGTERM")
  assert.deepEqual(faults, [])
  const doubles = whole.items.length - json
  console.log(
    `clients of Durable Streams: ${p0.sent.length + p1.sent.length} lines of producers, ${json} appends without (${doubles} doubled by retries), ` +
      `${state.changes} changes of state; ${reads.map((read) => `${read.live} ${read.connections}`).join(", ")} connections; ` +
      `${ROUNDS} kills, ${ROUNDS} outages, ${((Date.now() - started) / 1000).toFixed(1)} s`,
  )
}

await main()
process.exit(0)
