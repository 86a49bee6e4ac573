// Guarantees beyond PocketBase's, with its SDK: order, no lost increment, nothing missed after an outage, on several nodes.
import { suite, test } from 'node:test';
import { spawn } from 'node:child_process';
import { createServer, connect } from 'node:net';
import { once } from 'node:events';
import { allowBatches, assert, client, delay, follow, later, make, parallel, proxy, until } from '../support.js';

const numbers = (events) => events.map((event) => event.record.n);
const upTo = (count, first = 0) => Array.from({ length: count }, (_, n) => first + n);
/** What was sent less than 10 ms before a break may come again. */
const arrived = () => delay(50);

suite('stronger', () => {
  test('1,000 creates, one after another, arrive in order', async (t) => {
    const posts = await make(t);
    const pb = client();
    const events = await follow(t, pb, posts.name);
    for (let n = 0; n < 1000; n++) await pb.collection(posts.name).create({ n });
    assert.deepEqual(numbers(await events.take(1000)), upTo(1000));
  });

  test('300 updates of one record arrive in order, the last one last', async (t) => {
    const posts = await make(t);
    const pb = client();
    const made = await pb.collection(posts.name).create({ n: 0 });
    const [all, one] = [await follow(t, pb, posts.name), await follow(t, pb, posts.name, made.id)];
    for (let n = 1; n <= 300; n++) await pb.collection(posts.name).update(made.id, { n });
    for (const events of [all, one]) assert.deepEqual(numbers(await events.take(300)), upTo(300, 1));
  });

  test('writes to several records and collections arrive in the order of the writes', async (t) => {
    const collections = [await make(t), await make(t), await make(t)];
    const pb = client();
    const seen = [];
    for (const { name } of collections) {
      const stop = await pb.collection(name).subscribe('*', (event) => seen.push(event.record.n));
      later(t, stop);
    }
    const made = await Promise.all(collections.map(({ name }) => pb.collection(name).create({ n: -1 })));
    await until(() => seen.length === 3);
    seen.length = 0;
    for (let n = 0; n < 200; n++) {
      const { name } = collections[n % 3];
      if (n % 2) await pb.collection(name).create({ n });
      else await pb.collection(name).update(made[n % 3].id, { n });
    }
    await until(() => seen.length === 200);
    assert.deepEqual(seen, upTo(200));
  });

  test('100 subscribers see concurrent writes in the same order', async (t) => {
    const posts = await make(t);
    const pb = client();
    const clients = Array.from({ length: 100 }, () => client());
    const subscriptions = await parallel(100, 20, (n) => follow(t, clients[n], posts.name));
    await parallel(300, 16, (n) => pb.collection(posts.name).create({ n }));
    const [first, ...others] = await Promise.all(subscriptions.map(async (events) => numbers(await events.take(300))));
    assert.equal(new Set(first).size, 300);
    for (const other of others) assert.deepEqual(other, first);
  });

  test('writes of a batch arrive in the order of the batch', async (t) => {
    await allowBatches();
    const posts = await make(t);
    const pb = client();
    const events = await follow(t, pb, posts.name);
    for (let first = 0; first < 1000; first += 50) {
      const batch = pb.createBatch();
      for (let n = first; n < first + 50; n++) batch.collection(posts.name).create({ n });
      await batch.send();
    }
    assert.deepEqual(numbers(await events.take(1000)), upTo(1000));
  });

  test('200 concurrent increments keep 200', async (t) => {
    const posts = await make(t);
    const pb = client();
    const made = await pb.collection(posts.name).create({ n: 0 });
    await parallel(200, 200, () => pb.collection(posts.name).update(made.id, { 'n+': 1 }));
    assert.equal((await pb.collection(posts.name).getOne(made.id)).n, 200);
  });

  test('writes during an outage are all there after it, once and in order', async (t) => {
    const posts = await make(t);
    const between = await proxy(t);
    const pb = client(between.url);
    const events = await follow(t, pb, posts.name, '*', { resume: crypto.randomUUID() });
    const records = client().collection(posts.name);
    for (let n = 0; n < 10; n++) await records.create({ n });
    await until(() => events.events.length >= 10);
    for (let round = 0; round < 3; round++) {
      await arrived();
      between.refuse = true;
      between.cut();
      await until(() => !pb.realtime.isConnected);
      for (let n = 0; n < 20; n++) await records.create({ n: 10 + round * 20 + n });
      between.refuse = false;
      await until(() => events.events.length >= 30 + round * 20);
    }
    await records.create({ n: 70 });
    await until(() => events.events.some((event) => event.record.n === 70));
    assert.deepEqual(numbers(events.events), upTo(71));
  });

  test('breaks in the middle of events miss none and keep their order', async (t) => {
    const posts = await make(t);
    const between = await proxy(t);
    const pb = client(between.url);
    const events = await follow(t, pb, posts.name, '*', { resume: crypto.randomUUID() });
    const records = client().collection(posts.name);
    let ended = false;
    const breaking = (async () => {
      // Not while it connects: then the SDK may leave an EventSource behind, for ever.
      while (!ended) {
        between.stop();
        await until(() => !pb.realtime.isConnected);
        await until(() => pb.realtime.isConnected);
        await delay(100);
      }
    })();
    for (let n = 0; n < 300; n++) await records.create({ n });
    ended = true;
    await breaking;
    await until(() => events.events.some((event) => event.record.n === 299));
    // Those that were on their way come again, behind a break; then it goes on from there.
    const seen = new Set();
    for (const n of numbers(events.events)) {
      assert.ok(n <= seen.size, `${n} after ${seen.size} others`);
      seen.add(n);
    }
    assert.equal(seen.size, 300);
  });

  test('two subscriptions with positions of their own do not disturb each other', async (t) => {
    const posts = await make(t);
    const pb = client();
    const [all, some] = [
      await follow(t, pb, posts.name, '*', { resume: crypto.randomUUID() }),
      await follow(t, pb, posts.name, '*', { resume: crypto.randomUUID(), filter: 'n > 4' }),
    ];
    for (let n = 0; n < 10; n++) {
      await pb.collection(posts.name).create({ n });
      await all.next();
    }
    assert.deepEqual(numbers(all.events), upTo(10));
    await until(() => some.events.length === 5);
    assert.deepEqual(numbers(some.events).sort(), upTo(5, 5));
  });

  test('three nodes behind a proxy that takes turns, one of them killed', async (t) => {
    const posts = await make(t);
    const nodes = await Promise.all([0, 1, 2].map(() => node(t)));
    const entry = await turns(t, nodes);
    const clients = Array.from({ length: 6 }, () => client(entry));
    const subscriptions = await Promise.all(
      clients.map((pb) => follow(t, pb, posts.name, '*', { resume: crypto.randomUUID() })),
    );
    // Writes are retried, with ids of their own.
    const writer = client(entry).collection(posts.name);
    const write = async (n) => {
      const id = `n${String(n).padStart(14, '0')}`;
      for (;;) {
        try {
          return await writer.create({ id, n });
        } catch (error) {
          if (error.status === 400) return; // The first try was stored.
          if (error.status !== 0 && error.status < 500) throw error;
          await delay(50);
        }
      }
    };
    for (let n = 0; n < 60; n++) await write(n);
    await Promise.all(subscriptions.map((events) => until(() => events.events.length >= 60)));
    await delay(500);
    nodes[1].kill();
    for (let n = 60; n < 120; n++) await write(n);
    for (const events of subscriptions) {
      await until(() => events.events.some((event) => event.record.n === 119));
      assert.deepEqual(numbers(events.events), upTo(120));
    }
  });
});

/** A node more of the service, over the same database. */
async function node(t) {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  await new Promise((closed) => probe.close(closed));
  const data = `${process.env.DATA_DIR}/node-${port}`;
  const env = { ...process.env, PORT: String(port), DATA_DIR: data, DATABASE_URL: process.env.TIDEGATE_DATABASE, DB_POOL_SIZE: '8' };
  const child = spawn(process.env.TIDEGATE_BINARY, [], { env, stdio: 'ignore' });
  later(t, async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGTERM');
    await once(child, 'exit');
  });
  const ready = () => fetch(`http://127.0.0.1:${port}/health/ready`).then((answer) => answer.ok, () => false);
  await until(ready, 60_000);
  return { port, kill: () => child.kill('SIGKILL') };
}

/** A proxy that gives each connection to the next node that accepts it. */
async function turns(t, nodes) {
  let next = 0;
  const sockets = new Set();
  const server = createServer((inner) => {
    const attempt = (tries) => {
      const outer = connect(nodes[next++ % nodes.length].port, '127.0.0.1');
      let isOpen = false;
      outer.on('connect', () => {
        isOpen = true;
        inner.pipe(outer);
        outer.pipe(inner);
      });
      outer.on('error', () => (!isOpen && tries > 1 ? attempt(tries - 1) : inner.destroy()));
      outer.on('close', () => isOpen && inner.destroy());
      inner.on('close', () => outer.destroy());
    };
    sockets.add(inner);
    inner.on('error', () => {});
    attempt(nodes.length);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  later(t, () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}`;
}
