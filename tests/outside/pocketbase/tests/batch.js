import { suite, test } from 'node:test';
import { allowBatches, assert, client, follow, make, raw, refused, superuser, user } from '../support.js';

const send = (requests) => raw('/api/batch', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ requests }) });

suite('batch', () => {
  test('create, update, upsert and delete in one transaction', async (t) => {
    await allowBatches();
    const posts = await make(t);
    const pb = client();
    const id = 'aaaaaaaaaaaaaaa';
    const batch = pb.createBatch();
    const records = batch.collection(posts.name);
    records.create({ id, title: 'one' }, { fields: 'id' });
    records.update(id, { 'n+': 2 });
    records.upsert({ id, title: 'two' });
    records.upsert({ title: 'new' });
    records.create({ title: 'to go', id: 'bbbbbbbbbbbbbbb' });
    records.delete('bbbbbbbbbbbbbbb');
    const answers = await batch.send();
    assert.deepEqual(answers.map((answer) => answer.status), [200, 200, 200, 200, 200, 204]);
    assert.deepEqual(answers[0].body, { id });
    assert.deepEqual([answers[2].body.title, answers[2].body.n], ['two', 2]);
    assert.equal(answers[5].body, null);
    assert.equal((await pb.collection(posts.name).getList()).totalItems, 2);
  });

  test('one failure undoes all, and is named', async (t) => {
    await allowBatches();
    const posts = await make(t, { fields: [{ name: 'title', type: 'text', required: true }] });
    const pb = client();
    const batch = pb.createBatch();
    batch.collection(posts.name).create({ title: 'fine' });
    batch.collection(posts.name).create({});
    const { data } = await refused(batch.send(), 400, 'Batch transaction failed.');
    assert.deepEqual(data.requests, {
      1: {
        code: 'batch_request_failed', message: 'Batch request failed.',
        response: { data: { title: { code: 'validation_required', message: 'Cannot be blank.' } }, message: 'Failed to create record.', status: 400 },
      },
    });
    assert.equal((await pb.collection(posts.name).getList()).totalItems, 0);
  });

  test('rules and the identity of the caller count', async (t) => {
    await allowBatches();
    const people = await make(t, { type: 'auth' });
    const posts = await make(t, { createRule: '@request.auth.id != "" && @request.context = "batch"' });
    const ann = await user(people.name);
    const batch = (pb) => {
      const made = pb.createBatch();
      made.collection(posts.name).create({ title: 'x' });
      return made.send();
    };
    await refused(batch(client()), 400, 'Batch transaction failed.');
    await batch(ann);
    await refused(ann.collection(posts.name).create({}), 400);
  });

  test('files go with it', async (t) => {
    await allowBatches();
    const posts = await make(t, { fields: [{ name: 'title', type: 'text' }, { name: 'one', type: 'file', maxSelect: 1 }] });
    const pb = client();
    const batch = pb.createBatch();
    batch.collection(posts.name).create({ title: 'first', one: new File(['hello'], 'a.txt', { type: 'text/plain' }) });
    batch.collection(posts.name).create({ title: 'second' });
    const [first, second] = await batch.send();
    assert.deepEqual([first.body.title, second.body.title, second.body.one], ['first', 'second', '']);
    assert.equal(await (await fetch(pb.files.getURL(first.body, first.body.one))).text(), 'hello');
  });

  test('what is no batch is 400', async (t) => {
    await allowBatches();
    const posts = await make(t);
    const url = `/api/collections/${posts.name}/records`;
    const shape = async (requests, code) => {
      const { status, json } = await send(requests);
      assert.deepEqual([status, json.message], [400, 'Invalid batch request data.']);
      assert.match(JSON.stringify(json.data), new RegExp(code));
    };
    await shape([], 'validation_required');
    await shape([{ url }], 'validation_required');
    await shape([{ method: 'POST' }], 'validation_required');
    await shape([{ method: 'post', url }], 'validation_in_invalid');
    await shape(Array.from({ length: 51 }, () => ({ method: 'POST', url })), 'validation_length_too_long');
    for (const request of [{ method: 'POST', url: '/api/collections/users/auth-with-password' }, { method: 'POST', url: '/api/nothing' },
      { method: 'POST', url: `http://127.0.0.1:1${url}` }]) {
      const { status, json } = await send([request]);
      assert.deepEqual([status, json.message, json.data.requests[0].code], [400, 'Batch transaction failed.', 'batch_request_failed']);
    }
    const missing = await send([{ method: 'DELETE', url: `${url}/nothing` }]);
    assert.equal(missing.json.data.requests[0].response.status, 404);
  });

  test('batches are off until the settings allow them', async (t) => {
    const posts = await make(t);
    const admin = await superuser();
    const { batch } = await admin.settings.getAll();
    await admin.settings.update({ batch: { ...batch, enabled: false } });
    try {
      const off = await send([{ method: 'POST', url: `/api/collections/${posts.name}/records` }]);
      assert.deepEqual([off.status, off.json.message], [403, 'Batch requests are not allowed.']);
    } finally {
      await admin.settings.update({ batch: { ...batch, enabled: true, maxRequests: 50 } });
    }
    const events = await follow(t, client(), posts.name);
    assert.equal((await send([{ method: 'POST', url: `/api/collections/${posts.name}/records`, body: { title: 'on' } }])).status, 200);
    assert.equal((await events.next()).record.title, 'on');
  });
});
