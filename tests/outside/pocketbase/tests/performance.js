// Bounds that a shared machine keeps. The figures are printed.
import { suite, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { allowBatches, assert, client, follow, make, parallel, until } from '../support.js';

const seconds = (started) => (performance.now() - started) / 1000;

suite('performance', () => {
  test('latency from the write to the event', async (t) => {
    const posts = await make(t);
    const pb = client();
    let arrived;
    const stop = await pb.collection(posts.name).subscribe('*', () => arrived());
    t.after(stop);
    const delays = [];
    for (let n = 0; n < 200; n++) {
      const started = performance.now();
      const event = new Promise((resolve) => (arrived = resolve));
      await Promise.all([event.then(() => delays.push(performance.now() - started)), pb.collection(posts.name).create({ n })]);
    }
    delays.sort((a, b) => a - b);
    t.diagnostic(`write to event: p50 ${delays[100].toFixed(1)} ms, p99 ${delays[197].toFixed(1)} ms`);
    assert.ok(delays[100] < 100 && delays[197] < 1000);
  });

  test('100 clients get every event', async (t) => {
    const posts = await make(t);
    const clients = Array.from({ length: 100 }, () => client());
    const subscriptions = await parallel(100, 20, (n) => follow(t, clients[n], posts.name));
    const started = performance.now();
    for (let n = 0; n < 20; n++) await clients[0].collection(posts.name).create({ n });
    for (const events of subscriptions) {
      const numbers = (await events.take(20)).map((event) => event.record.n).sort((a, b) => a - b);
      assert.deepEqual(numbers, Array.from({ length: 20 }, (_, n) => n));
    }
    t.diagnostic(`2,000 events in ${seconds(started).toFixed(2)} s`);
    assert.ok(seconds(started) < 15);
  });

  test('batches', async (t) => {
    await allowBatches();
    const posts = await make(t);
    const pb = client();
    const events = await follow(t, pb, posts.name);
    const started = performance.now();
    for (let first = 0; first < 1000; first += 50) {
      const batch = pb.createBatch();
      for (let n = first; n < first + 50; n++) batch.collection(posts.name).create({ n });
      await batch.send();
    }
    assert.equal(new Set((await events.take(1000)).map((event) => event.record.n)).size, 1000);
    t.diagnostic(`20 batches of 50: ${(1000 / seconds(started)).toFixed(0)} events/s`);
    assert.ok(seconds(started) < 20);
  });

  test('memory of a client stays stable', async (t) => {
    const posts = await make(t);
    const pb = client();
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc');
    const sizes = [];
    for (let round = 0; round < 5; round++) {
      let seen = 0;
      const stop = await pb.collection(posts.name).subscribe('*', () => (seen += 1));
      await parallel(300, 16, () => pb.collection(posts.name).create({ title: 'x'.repeat(2000) }));
      await until(() => seen === 300);
      await stop();
      collect();
      sizes.push(process.memoryUsage().heapUsed / 2 ** 20);
    }
    t.diagnostic(`heap after rounds of 300 events: ${sizes.map((size) => size.toFixed(0)).join(', ')} MiB`);
    assert.ok(sizes[4] - sizes[1] < 10);
  });

  test('throughput', async (t) => {
    const posts = await make(t);
    const clients = Array.from({ length: 5 }, () => client());
    const subscriptions = await parallel(5, 5, (n) => follow(t, clients[n], posts.name));
    const started = performance.now();
    await parallel(1000, 32, (n) => clients[0].collection(posts.name).create({ n }));
    for (const events of subscriptions) assert.equal((await events.take(1000, 60_000)).length, 1000);
    t.diagnostic(`${(5000 / seconds(started)).toFixed(0)} events/s, written by the same process`);
    assert.ok(5000 / seconds(started) > 250);
  });
});
