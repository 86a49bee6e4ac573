// What the tests share: clients, collections of their own, followed topics, a proxy that breaks connections.
import assert from 'node:assert/strict';
import { createServer, connect } from 'node:net';
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { EventSource } from 'eventsource';
import PocketBase, { ClientResponseError } from 'pocketbase';

globalThis.EventSource = EventSource;

export const url = process.env.POCKETBASE_URL ?? 'http://127.0.0.1:8090';
export const superuserEmail = process.env.POCKETBASE_SUPERUSER_EMAIL ?? 'admin@example.com';
export const superuserPassword = process.env.POCKETBASE_SUPERUSER_PASSWORD ?? '';
/** A superuser's token, for a server without log-in. */
const superuserToken = process.env.POCKETBASE_SUPERUSER_TOKEN ?? '';
/** Milliseconds that a state may take to come about. */
export const patience = 20_000;
export const secret = 'correct horse battery';

export { assert, delay, ClientResponseError };

export function unique(prefix = 't') {
  return `${prefix}_${randomBytes(6).toString('hex')}`;
}

export function client(base = url) {
  const pb = new PocketBase(base);
  pb.autoCancellation(false);
  return pb;
}

let admin;
/** The superuser's client, one for each file. */
export async function superuser() {
  if (!admin) {
    admin = client();
    if (superuserToken) admin.authStore.save(superuserToken, null);
    else await admin.collection('_superusers').authWithPassword(superuserEmail, superuserPassword);
  }
  return admin;
}

const cleanups = new WeakMap();
/** Runs `job` after the test; the last one added runs first. */
export function later(t, job) {
  if (!cleanups.has(t)) {
    cleanups.set(t, []);
    t.after(async () => {
      for (const job of cleanups.get(t).reverse()) await job();
    });
  }
  cleanups.get(t).push(job);
}

export const open = { listRule: '', viewRule: '', createRule: '', updateRule: '', deleteRule: '' };
const basic = [
  { name: 'title', type: 'text' },
  { name: 'n', type: 'number' },
  { name: 'owner', type: 'text' },
];

/** Makes a collection, open to everyone unless `options` say otherwise; it is deleted after the test. Returns its model. */
export async function make(t, options = {}) {
  const pb = await superuser();
  const type = options.type ?? 'base';
  const body = { name: unique(), type, ...open, ...(type === 'base' ? { fields: basic } : {}), ...options };
  const made = await pb.collections.create(body);
  later(t, () => pb.collections.delete(made.name));
  return made;
}

/** Makes a user of an auth collection and returns a client that is logged in as this user. */
export async function user(collection, more = {}) {
  const email = `${unique('u')}@example.com`;
  const pb = await superuser();
  const record = await pb.collection(collection).create({ email, password: secret, passwordConfirm: secret, ...more });
  const own = client();
  await own.collection(collection).authWithPassword(email, secret);
  return Object.assign(own, { email, id: record.id });
}

/** Switches batches on: a fresh PocketBase has them off. */
export async function allowBatches() {
  const pb = await superuser();
  const { batch } = await pb.settings.getAll();
  if (!batch.enabled) await pb.settings.update({ batch: { ...batch, enabled: true } });
}

export async function until(condition, milliseconds = patience) {
  const end = Date.now() + milliseconds;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${milliseconds} ms: ${condition}`);
    await delay(10);
  }
}

/** Subscribes, and collects the events. Ends with the test. */
export async function follow(t, pb, collection, topic = '*', options) {
  const events = [];
  let read = 0;
  const stop = await pb.collection(collection).subscribe(topic, (event) => events.push(event), options);
  later(t, () => stop().catch(() => {}));
  return {
    events,
    stop,
    get unread() {
      return events.length - read;
    },
    async take(count, milliseconds = patience) {
      await until(() => events.length >= read + count, milliseconds);
      return events.slice(read, (read += count));
    },
    async next(milliseconds = patience) {
      return (await this.take(1, milliseconds))[0];
    },
  };
}

/** Asserts that the call is refused; returns the answer, `{status, message, data}`. */
export async function refused(promise, status, message) {
  let answer;
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof ClientResponseError, String(error));
    answer = error.response;
    assert.equal(error.status, status, JSON.stringify(answer));
    if (message !== undefined) assert.equal(answer.message, message);
    return true;
  });
  return answer;
}

/** A request without the SDK. */
export async function raw(path, { token, base = url, ...init } = {}) {
  const headers = { ...(token ? { Authorization: token } : {}), ...init.headers };
  const response = await fetch(base + path, { ...init, headers });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: text.startsWith('{') || text.startsWith('[') ? JSON.parse(text) : null };
}

/** Runs `job(0)` to `job(count - 1)`, `width` at a time. */
export async function parallel(count, width, job) {
  const results = [];
  let next = 0;
  const worker = async () => {
    while (next < count) {
      const n = next++;
      results[n] = await job(n);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  return results;
}

/** A TCP proxy in front of the server that can cut, stall and refuse connections and add bytes to streams. */
export async function proxy(t) {
  const target = new URL(url);
  const sockets = new Set();
  const streams = new Set();
  const state = { refuse: false, stalled: false, busy: 0, accepted: 0 };
  const server = createServer((inner) => {
    state.accepted += 1;
    if (state.refuse) return inner.resetAndDestroy();
    const outer = connect(Number(target.port || 80), target.hostname);
    for (const socket of [inner, outer]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        streams.delete(inner);
        inner.destroySoon();
        outer.destroySoon();
      });
    }
    inner.on('data', (data) => {
      if (data.subarray(0, 17).toString() === 'GET /api/realtime') {
        if (state.busy > 0) {
          state.busy -= 1;
          return inner.end('HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
        }
        streams.add(inner);
        inner.ended = () => outer.end();
      }
      outer.write(data);
    });
    outer.on('data', async (data) => {
      while (state.stalled && !inner.destroyed) await delay(10);
      if (!inner.destroyed) inner.write(data);
    });
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  const cut = () => [...sockets].forEach((socket) => socket.resetAndDestroy());
  later(t, () => {
    state.stalled = false;
    cut();
    server.close();
  });
  return Object.assign(state, {
    url: `http://127.0.0.1:${server.address().port}`,
    cut,
    /** Ends each stream towards the server; what has arrived from it still goes to the client. */
    stop: () => streams.forEach((socket) => socket.ended?.()),
    /** Adds text to every open stream, as a chunk of its own. */
    inject: (text) => streams.forEach((socket) => socket.write(`${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`)),
  });
}

/** Receives mail by SMTP, from a server whose settings name this machine. Call before the first mail of a test. */
export async function mailbox(t) {
  const mails = [];
  const sink = createServer((socket) => {
    let text = '';
    let body = false;
    let to = '';
    socket.on('error', () => {});
    socket.write('220 sink ESMTP\r\n');
    socket.on('data', (data) => {
      text += data.toString('latin1');
      for (;;) {
        if (body) {
          const end = text.indexOf('\r\n.\r\n');
          if (end < 0) return;
          mails.push({ to, text: decoded(text.slice(0, end)) });
          text = text.slice(end + 5);
          body = false;
          socket.write('250 ok\r\n');
          continue;
        }
        const end = text.indexOf('\r\n');
        if (end < 0) return;
        const line = text.slice(0, end);
        text = text.slice(end + 2);
        const verb = line.slice(0, 4).toUpperCase();
        if (verb === 'RCPT') to = line.match(/<([^>]*)>/)[1];
        if (verb === 'DATA') body = true;
        socket.write({ DATA: '354 go on\r\n', QUIT: '221 bye\r\n' }[verb] ?? '250 ok\r\n');
        if (verb === 'QUIT') socket.end();
      }
    });
  });
  await new Promise((ready) => sink.listen(0, '127.0.0.1', ready));
  const pb = await superuser();
  const before = (await pb.settings.getAll()).smtp;
  await pb.settings.update({ smtp: { ...before, enabled: true, host: '127.0.0.1', port: sink.address().port, username: '', password: '', tls: false } });
  later(t, async () => {
    await pb.settings.update({ smtp: before });
    sink.close();
  });
  return {
    mails,
    /** The first match of `pattern` in a mail to `address`. */
    async find(address, pattern) {
      let match;
      await until(() => (match = mails.filter((mail) => mail.to === address).map((mail) => mail.text.match(pattern)).find(Boolean)));
      return match[1];
    },
  };
}

/** The text of a mail, with its quoted-printable and base64 parts decoded. */
function decoded(mail) {
  return mail.split(/\r\n--/).map((part) => {
    const [head, ...rest] = part.split('\r\n\r\n');
    const body = rest.join('\r\n\r\n');
    if (/encoding: *base64/i.test(head)) return Buffer.from(body, 'base64').toString();
    return body.replace(/=\r\n/g, '').replace(/=([0-9A-F]{2})/g, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)));
  }).join('\n');
}
