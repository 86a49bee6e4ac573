import { suite, test } from 'node:test';
import { assert, client, follow, make, parallel, proxy, raw, refused, superuser, unique, until } from '../support.js';

const post = (path, body, more = {}) =>
  raw(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: typeof body === 'string' ? body : JSON.stringify(body), ...more });

suite('errors', () => {
  test('a network cut: failed calls are errors of status 0, and the stream comes back', async (t) => {
    const posts = await make(t);
    const between = await proxy(t);
    const pb = client(between.url);
    const events = await follow(t, pb, posts.name);
    between.refuse = true;
    between.cut();
    await assert.rejects(pb.collection(posts.name).getList(), (error) => error.status === 0 && error.isAbort === false);
    await until(() => !pb.realtime.isConnected);
    const tries = between.accepted;
    await until(() => between.accepted > tries + 1);
    between.refuse = false;
    await until(() => pb.realtime.isConnected);
    await until(async () => {
      await client().collection(posts.name).create({ title: 'back' });
      return events.events.some((event) => event.record.title === 'back');
    });
  });

  test('requests that are cancelled harm nothing', async (t) => {
    const posts = await make(t);
    const pb = client();
    pb.autoCancellation(true);
    const calls = Array.from({ length: 30 }, () => pb.collection(posts.name).getList());
    const results = await Promise.allSettled(calls);
    assert.equal(results.at(-1).status, 'fulfilled');
    assert.ok(results.slice(0, -1).every((result) => result.status === 'rejected' && result.reason.isAbort));
    assert.equal((await client().health.check()).code, 200);
  });

  test('malformed bodies are 400', async (t) => {
    const posts = await make(t);
    const path = `/api/collections/${posts.name}/records`;
    for (const body of ['{bad', '[1]', '"text"', '{"title":"a","title":"b"}', '{"title":"\\ud800"}', '{"n":1e400}']) {
      const answer = await post(path, body);
      assert.equal(answer.status, 400, body);
      assert.deepEqual(answer.json, { data: {}, message: 'Something went wrong while processing your request.', status: 400 }, body);
    }
    const text = await post(path, '{"title":"a"}', { headers: { 'content-type': 'text/plain' } });
    assert.deepEqual([text.status, text.json.message], [400, 'Unsupported Content-Type.']);
    assert.equal((await post(path, '')).status, 200);
    const form = await post(path, 'title=from+a+form&n=3', { headers: { 'content-type': 'application/x-www-form-urlencoded' } });
    assert.deepEqual([form.json.title, form.json.n], ['from a form', 3]);
    assert.equal((await raw(path)).json.totalItems, 2);
  });

  test('malformed reports of topics are 400, unknown clients 404', async (t) => {
    const posts = await make(t);
    const pb = client();
    await follow(t, pb, posts.name);
    const id = pb.realtime.clientId;
    const code = (answer, member) => answer.json.data[member].code;
    assert.equal(code(await post('/api/realtime', {}), 'clientId'), 'validation_required');
    assert.equal(code(await post('/api/realtime', { clientId: 'x'.repeat(256) }), 'clientId'), 'validation_length_out_of_range');
    assert.equal((await post('/api/realtime', '{bad')).status, 400);
    assert.equal((await post('/api/realtime', { clientId: id, subscriptions: 'text' })).status, 400);
    const unknown = await post('/api/realtime', { clientId: 'nobody', subscriptions: [] });
    assert.deepEqual(unknown.json, { data: {}, message: 'Missing or invalid client id.', status: 404 });
    const form = await post('/api/realtime', `clientId=${id}&subscriptions=a&subscriptions=b`, { headers: { 'content-type': 'application/x-www-form-urlencoded' } });
    assert.equal(form.status, 204);
  });

  test('malformed events do not end the stream', async (t) => {
    const posts = await make(t);
    const between = await proxy(t);
    const pb = client(between.url);
    const events = await follow(t, pb, posts.name);
    const named = pb.realtime.clientId;
    between.inject(`event: ${posts.name}/*\ndata: {broken\n\n`);
    between.inject('nonsense\n\nevent: elsewhere\ndata: x\n\n');
    assert.deepEqual(await events.next(), {});
    await pb.collection(posts.name).create({ title: 'fine' });
    assert.equal((await events.next()).record.title, 'fine');
    assert.equal(pb.realtime.clientId, named);
  });

  test('limits of topics: 1,000 for a connection, 2,500 characters each', async (t) => {
    const posts = await make(t);
    const pb = client();
    const events = await follow(t, pb, posts.name);
    const clientId = pb.realtime.clientId;
    const report = (subscriptions) => post('/api/realtime', { clientId, subscriptions });
    const many = await report(Array.from({ length: 1001 }, (_, n) => `topic/${n}`));
    assert.deepEqual(many.json.data.subscriptions,
      { code: 'validation_length_too_long', message: 'The length must be no more than 1000.', params: { max: 1000, min: 0 } });
    const long = await report(['fine', 'x'.repeat(2501)]);
    assert.equal(long.json.data.subscriptions['1'].code, 'validation_length_too_long');
    assert.equal((await report([...Array.from({ length: 999 }, (_, n) => `topic/${n}`), `${posts.name}/*`])).status, 204);
    await pb.collection(posts.name).create({ title: 'still followed' });
    assert.equal((await events.next()).record.title, 'still followed');
  });

  test('limits of lists and filters', async (t) => {
    const posts = await make(t);
    const pb = client().collection(posts.name);
    await parallel(3, 3, (n) => pb.create({ n }));
    assert.equal((await pb.getList(1, 5000)).perPage, 1000);
    assert.equal((await pb.getList(0, 2)).page, 1);
    assert.deepEqual((await pb.getList(9, 2)).items, []);
    const unasked = await pb.getList(1, 2, { skipTotal: true });
    assert.deepEqual([unasked.totalItems, unasked.totalPages], [-1, -1]);
    const path = `/api/collections/${posts.name}/records`;
    const longest = `n=1${'||n=1'.repeat(199)}`;
    assert.equal((await raw(`${path}?filter=${encodeURIComponent(longest)}`)).status, 200);
    for (const query of ['page=x', 'perPage=1.5', 'page=99999999999999999999', 'skipTotal=x', `filter=${encodeURIComponent(`${longest}||n=1`)}`,
      `filter=${encodeURIComponent(`title="${'x'.repeat(3500)}"`)}`, 'sort=id,id,id,id,id,id,id,id,id', 'sort=nothing', 'filter=(', 'sort=,']) {
      assert.equal((await raw(`${path}?${query}`)).status, 400, query.slice(0, 60));
    }
  });

  test('overload: many requests at once are all answered', async (t) => {
    const posts = await make(t);
    const pb = client().collection(posts.name);
    const answers = await parallel(500, 100, (n) => (n % 2 ? pb.create({ n }) : pb.getList(1, 1)));
    assert.equal(answers.length, 500);
    assert.equal((await pb.getList(1, 1)).totalItems, 250);
  });

  test('a busy server (503) delays a stream, and does not end it', async (t) => {
    const posts = await make(t);
    const between = await proxy(t);
    const pb = client(between.url);
    const events = await follow(t, pb, posts.name);
    const named = pb.realtime.clientId;
    between.busy = 2;
    between.cut();
    await until(() => pb.realtime.isConnected && pb.realtime.clientId !== named);
    assert.equal(between.busy, 0);
    await until(async () => {
      await client().collection(posts.name).create({});
      return events.events.length > 0;
    });
  });

  test('a server that does not answer: the caller times out, and goes on later', async (t) => {
    const posts = await make(t);
    const between = await proxy(t);
    const pb = client(between.url);
    between.stalled = true;
    await assert.rejects(pb.collection(posts.name).getList(1, 1, { signal: AbortSignal.timeout(300) }), (error) => error.status === 0);
    between.stalled = false;
    assert.equal((await pb.collection(posts.name).getList()).totalItems, 0);
  });

  test('unknown names are 404, with the words of the API', async (t) => {
    const posts = await make(t);
    const pb = client();
    const missing = "The requested resource wasn't found.";
    await refused(pb.collection(unique()).getList(), 404, 'Missing collection context.');
    await refused(pb.collection(unique()).create({}), 404, 'Missing or invalid collection context.');
    await refused(pb.collection(unique()).authWithPassword('a', 'b'), 404, 'Missing or invalid collection context.');
    await refused(pb.collection(posts.name).authWithPassword('a', 'b'), 404, 'Missing or invalid auth collection context.');
    await refused(pb.collection(posts.name).getOne('nothing'), 404, missing);
    await refused(pb.collection(posts.name).update('nothing', {}), 404, missing);
    await refused(pb.collection(posts.name).delete('nothing'), 404, missing);
    await refused((await superuser()).collections.getOne(unique()), 404, missing);
    await refused(pb.collection(posts.name).getFirstListItem('n = 12345'), 404, missing);
    assert.equal((await raw('/api/nothing')).status, 404);
  });
});
