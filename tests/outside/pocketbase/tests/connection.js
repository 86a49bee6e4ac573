import { suite, test } from 'node:test';
import { assert, client, delay, follow, make, proxy, raw, superuser, until, user } from '../support.js';

suite('connection', () => {
  test('a subscription opens a stream that the server names', async (t) => {
    const posts = await make(t);
    const pb = client();
    assert.equal(pb.realtime.isConnected, false);
    const events = await follow(t, pb, posts.name);
    assert.equal(pb.realtime.isConnected, true);
    assert.match(pb.realtime.clientId, /^[A-Za-z0-9]{40}$/);
    await pb.collection(posts.name).create({ title: 'hello' });
    assert.equal((await events.next()).record.title, 'hello');
  });

  test('the stream is plain server-sent events', async () => {
    const stop = new AbortController();
    const response = await fetch(`${client().baseURL}/api/realtime`, { signal: stop.signal });
    assert.equal(response.status, 200);
    assert.match(response.headers.get('content-type'), /^text\/event-stream/);
    assert.equal(response.headers.get('cache-control'), 'no-store');
    assert.equal(response.headers.get('x-accel-buffering'), 'no');
    const reader = response.body.getReader();
    const first = Buffer.from((await reader.read()).value).toString();
    const [, id] = first.match(/^id: ?(\w+)$/m);
    assert.match(first, /^event: ?PB_CONNECT$/m);
    assert.deepEqual(JSON.parse(first.match(/^data: ?(.*)$/m)[1]), { clientId: id });
    stop.abort();
  });

  test('a stream has the identity of the first report of topics, and keeps it', async (t) => {
    const people = await make(t, { type: 'auth' });
    const posts = await make(t, { listRule: '@request.auth.id != ""' });
    const [ann, bob] = [await user(people.name), await user(people.name)];
    const events = await follow(t, ann, posts.name);
    const report = (token) => raw('/api/realtime', {
      method: 'POST', token, headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ clientId: ann.realtime.clientId, subscriptions: [`${posts.name}/*`] }),
    });
    for (const token of [bob.authStore.token, undefined, 'garbage']) {
      const answer = await report(token);
      assert.equal(answer.status, 403);
      assert.equal(answer.json.message, "The current and the previous request authorization don't match.");
    }
    assert.equal((await report(ann.authStore.token)).status, 204);
    await (await superuser()).collection(posts.name).create({ title: 'for users' });
    assert.equal((await events.next()).record.title, 'for users');
  });

  test('a guest who logs in becomes a user on the same stream', async (t) => {
    const people = await make(t, { type: 'auth' });
    const posts = await make(t, { listRule: '@request.auth.id != ""' });
    const ann = await user(people.name);
    const pb = client();
    const events = await follow(t, pb, posts.name);
    const admin = await superuser();
    pb.authStore.save(ann.authStore.token, ann.authStore.record);
    const named = pb.realtime.clientId;
    await follow(t, pb, posts.name, 'aaaaaaaaaaaaaaa');
    await admin.collection(posts.name).create({ title: 'now visible' });
    assert.equal((await events.next()).record.title, 'now visible');
    assert.equal(pb.realtime.clientId, named);
  });

  test('heartbeats and unknown fields do not disturb the SDK', async (t) => {
    const posts = await make(t);
    const between = await proxy(t);
    const pb = client(between.url);
    const events = await follow(t, pb, posts.name);
    const named = pb.realtime.clientId;
    for (let n = 0; n < 5; n++) {
      between.inject(': heartbeat\n\n');
      between.inject('unknown: field\nid: position-1\n\n');
      await delay(20);
    }
    await pb.collection(posts.name).create({ title: 'after heartbeats' });
    assert.equal((await events.next()).record.title, 'after heartbeats');
    assert.equal(pb.realtime.clientId, named);
  });

  test('a cut stream comes back by itself with its topics', async (t) => {
    const posts = await make(t);
    const between = await proxy(t);
    const pb = client(between.url);
    const events = await follow(t, pb, posts.name, '*', { filter: 'n > 1' });
    const named = pb.realtime.clientId;
    between.cut();
    await until(() => pb.realtime.isConnected && pb.realtime.clientId !== named);
    const admin = await superuser();
    await until(async () => {
      await admin.collection(posts.name).create({ n: 2 });
      return events.events.length > 0;
    });
    await admin.collection(posts.name).create({ n: 1 });
    await admin.collection(posts.name).create({ n: 3 });
    await until(() => events.events.some((event) => event.record.n === 3));
    assert.ok(events.events.every((event) => event.record.n > 1));
  });

  test('the last unsubscribe closes the stream, and the server forgets it', async (t) => {
    const posts = await make(t);
    const pb = client();
    const all = await follow(t, pb, posts.name);
    const one = await follow(t, pb, posts.name, 'aaaaaaaaaaaaaaa');
    const named = pb.realtime.clientId;
    await one.stop();
    await pb.collection(posts.name).create({ id: 'aaaaaaaaaaaaaaa' });
    await all.next();
    assert.equal(one.events.length, 0);
    await all.stop();
    assert.equal(pb.realtime.isConnected, false);
    await until(async () => {
      const answer = await raw('/api/realtime', {
        method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ clientId: named, subscriptions: [] }),
      });
      if (answer.status === 404) assert.equal(answer.json.message, 'Missing or invalid client id.');
      return answer.status === 404;
    });
  });

  test('health and errors are answered to every origin', async () => {
    const health = await raw('/api/health', { headers: { origin: 'http://app.example' } });
    assert.equal(health.status, 200);
    assert.equal(health.json.code, 200);
    assert.equal(typeof health.json.message, 'string');
    assert.equal(health.headers.get('access-control-allow-origin'), '*');
    assert.equal((await client().health.check()).code, 200);
    const missing = await raw('/api/collections/nothing/records', { headers: { origin: 'http://app.example' } });
    assert.equal(missing.status, 404);
    assert.equal(missing.headers.get('access-control-allow-origin'), '*');
    const preflight = await raw('/api/collections/x/records', {
      method: 'OPTIONS',
      headers: { origin: 'http://app.example', 'access-control-request-method': 'PATCH', 'access-control-request-headers': 'authorization' },
    });
    assert.equal(preflight.status, 204);
    assert.match(preflight.headers.get('access-control-allow-methods'), /PATCH/);
  });
});
