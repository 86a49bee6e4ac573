import { suite, test } from 'node:test';
import { allowBatches, assert, client, follow, make, parallel, refused, superuser, until } from '../support.js';

suite('events', () => {
  test('a creation arrives with the record of the answer', async (t) => {
    const posts = await make(t);
    const pb = client();
    const events = await follow(t, pb, posts.name);
    const made = await pb.collection(posts.name).create({ title: 'Ünïcode 🎈\r\nline two', n: -1.5 });
    const { action, record } = await events.next();
    assert.equal(action, 'create');
    assert.deepEqual(record, made);
    assert.deepEqual(Object.keys(record).sort(), ['collectionId', 'collectionName', 'id', 'n', 'owner', 'title']);
  });

  test('an update arrives at the collection and at the record', async (t) => {
    const posts = await make(t);
    const pb = client();
    const records = pb.collection(posts.name);
    const [one, other] = [await records.create({ n: 1 }), await records.create({ n: 1 })];
    const all = await follow(t, pb, posts.name);
    const only = await follow(t, pb, posts.name, one.id);
    const byId = await follow(t, pb, posts.id);
    await records.update(other.id, { n: 2 });
    assert.equal((await all.next()).record.id, other.id);
    assert.equal((await byId.next()).record.id, other.id);
    await records.update(one.id, { 'n+': 4 });
    for (const events of [all, only, byId]) {
      const { action, record } = await events.next();
      assert.deepEqual([action, record.id, record.n], ['update', one.id, 5]);
    }
    assert.equal(only.events.length, 1);
  });

  test('a deletion arrives with the last state', async (t) => {
    const posts = await make(t);
    const pb = client();
    const made = await pb.collection(posts.name).create({ title: 'to go' });
    const events = await follow(t, pb, posts.name);
    await pb.collection(posts.name).delete(made.id);
    assert.deepEqual(await events.next(), { action: 'delete', record: made });
  });

  test('every change arrives once, in order where each waits for the one before', async (t) => {
    const posts = await make(t);
    const pb = client();
    const events = await follow(t, pb, posts.name);
    const made = await pb.collection(posts.name).create({ n: 0 });
    await events.next();
    for (let n = 1; n <= 20; n++) {
      await pb.collection(posts.name).update(made.id, { n });
      assert.equal((await events.next()).record.n, n);
    }
    await parallel(100, 10, (n) => pb.collection(posts.name).create({ n: 1000 + n }));
    const numbers = (await events.take(100)).map((event) => event.record.n).sort((a, b) => a - b);
    assert.deepEqual(numbers, Array.from({ length: 100 }, (_, n) => 1000 + n));
  });

  test('a batch arrives after its commit, a failed one never', async (t) => {
    await allowBatches();
    const posts = await make(t, { fields: [{ name: 'title', type: 'text', required: true }] });
    const pb = client();
    const events = await follow(t, pb, posts.name);
    const failing = pb.createBatch();
    failing.collection(posts.name).create({ title: 'lost' });
    failing.collection(posts.name).create({ title: '' });
    await refused(failing.send(), 400, 'Batch transaction failed.');
    const batch = pb.createBatch();
    for (let n = 0; n < 50; n++) batch.collection(posts.name).create({ title: `number ${n}` });
    await batch.send();
    const titles = (await events.take(50)).map((event) => event.record.title);
    assert.equal(new Set(titles).size, 50);
    assert.ok(!titles.includes('lost'));
  });

  test('filter, fields and expand of a subscription are honoured', async (t) => {
    const authors = await make(t);
    const posts = await make(t, {
      fields: [
        { name: 'title', type: 'text' },
        { name: 'n', type: 'number' },
        { name: 'author', type: 'relation', collectionId: authors.id, maxSelect: 1 },
      ],
    });
    const pb = client();
    const author = await pb.collection(authors.name).create({ title: 'Ann' });
    const events = await follow(t, pb, posts.name, '*', { filter: 'n > 10', expand: 'author', fields: 'id,n,expand.author.title' });
    const plain = await follow(t, pb, posts.name);
    await pb.collection(posts.name).create({ n: 1 });
    const made = await pb.collection(posts.name).create({ n: 11, author: author.id });
    await plain.take(2);
    assert.deepEqual((await events.next()).record, { id: made.id, n: 11, expand: { author: { title: 'Ann' } } });
    assert.equal(events.events.length, 1);
  });

  test('query and headers of a subscription reach the rules', async (t) => {
    const posts = await make(t, { listRule: '@request.query.key = "k1" && @request.headers.x_team = "red" && @request.context = "realtime"' });
    const pb = client();
    const right = await follow(t, pb, posts.name, '*', { query: { key: 'k1' }, headers: { 'X-Team': 'red' } });
    const wrong = await follow(t, pb, posts.name, '*', { query: { key: 'k1' }, headers: { 'X-Team': 'blue' } });
    await (await superuser()).collection(posts.name).create({ title: 'seen' });
    assert.equal((await right.next()).record.title, 'seen');
    assert.equal(wrong.events.length, 0);
  });

  test('a filter that is wrong or not allowed lets nothing through', async (t) => {
    const posts = await make(t);
    const pb = client();
    const wrong = await follow(t, pb, posts.name, '*', { filter: 'nothing = 1' });
    const denied = await follow(t, pb, posts.name, '*', { filter: '@request.auth.id = ""' });
    const admin = await superuser();
    const allowed = await follow(t, admin, posts.name, '*', { filter: '@request.auth.id != ""' });
    await pb.collection(posts.name).create({ title: 'x' });
    assert.equal((await allowed.next()).record.title, 'x');
    assert.equal(wrong.events.length + denied.events.length, 0);
  });

  test('cascades fire: deleted dependants, and updates that unset a relation', async (t) => {
    const authors = await make(t);
    const relation = (more) => [{ name: 'author', type: 'relation', collectionId: authors.id, maxSelect: 1, ...more }];
    const owned = await make(t, { fields: relation({ cascadeDelete: true }) });
    const loose = await make(t, { fields: relation({}) });
    const pb = client();
    const author = await pb.collection(authors.name).create({});
    const [child, free] = [await pb.collection(owned.name).create({ author: author.id }), await pb.collection(loose.name).create({ author: author.id })];
    const [ownedEvents, looseEvents] = [await follow(t, pb, owned.name), await follow(t, pb, loose.name)];
    await pb.collection(authors.name).delete(author.id);
    const gone = await ownedEvents.next();
    assert.deepEqual([gone.action, gone.record.id], ['delete', child.id]);
    const unset = await looseEvents.next();
    assert.deepEqual([unset.action, unset.record.id, unset.record.author], ['update', free.id, '']);
  });

  test('truncating fires a deletion for each record', async (t) => {
    const posts = await make(t);
    const pb = client();
    const made = await parallel(5, 1, (n) => pb.collection(posts.name).create({ n }));
    const events = await follow(t, pb, posts.name);
    await (await superuser()).collections.truncate(posts.name);
    const gone = await events.take(5);
    assert.ok(gone.every((event) => event.action === 'delete'));
    assert.deepEqual(gone.map((event) => event.record.id).sort(), made.map((record) => record.id).sort());
    assert.equal((await pb.collection(posts.name).getList()).totalItems, 0);
  });

  test('large records arrive whole', async (t) => {
    const posts = await make(t, { fields: [{ name: 'text', type: 'editor' }, { name: 'data', type: 'json' }] });
    const pb = client();
    const events = await follow(t, pb, posts.name);
    const text = 'ä'.repeat(500_000);
    const data = { lines: Array.from({ length: 20_000 }, (_, n) => `line ${n}\nnext`) };
    await pb.collection(posts.name).create({ text, data });
    const { record } = await events.next();
    assert.equal(record.text, text);
    assert.deepEqual(record.data, data);
  });

  test('a hundred topics of one client, changed one by one', async (t) => {
    const posts = await make(t);
    const pb = client();
    const ids = Array.from({ length: 100 }, (_, n) => `r${String(n).padStart(14, '0')}`);
    const topics = await parallel(100, 10, (n) => follow(t, pb, posts.name, ids[n]));
    await parallel(100, 10, (n) => client().collection(posts.name).create({ id: ids[n], n }));
    for (const [n, events] of topics.entries()) assert.equal((await events.next()).record.n, n);
    assert.ok(topics.every((events) => events.events.length === 1));
  });

  test('unsubscribing by topic, by prefix and by callback', async (t) => {
    const posts = await make(t);
    const pb = client();
    const seen = { a: 0, b: 0, c: 0 };
    const stop = await pb.collection(posts.name).subscribe('*', () => (seen.a += 1));
    await pb.collection(posts.name).subscribe('*', () => (seen.b += 1));
    await pb.collection(posts.name).subscribe('aaaaaaaaaaaaaaa', () => (seen.c += 1));
    const watch = await follow(t, client(), posts.name);
    await pb.collection(posts.name).create({ id: 'aaaaaaaaaaaaaaa' });
    await watch.next();
    await until(() => seen.a === 1 && seen.b === 1 && seen.c === 1);
    await stop();
    await pb.collection(posts.name).unsubscribe('aaaaaaaaaaaaaaa');
    await pb.collection(posts.name).update('aaaaaaaaaaaaaaa', { n: 1 });
    await watch.next();
    await until(() => seen.b === 2);
    assert.deepEqual(seen, { a: 1, b: 2, c: 1 });
    await pb.collection(posts.name).unsubscribe();
    assert.equal(pb.realtime.isConnected, false);
  });
});
