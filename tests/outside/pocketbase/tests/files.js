import { suite, test } from 'node:test';
import { assert, client, make, raw, refused, superuser, until, user } from '../support.js';

const png = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64');
const file = (content, name, type = 'text/plain') => new File([content], name, { type });
const path = (pb, record, name, options) => pb.files.getURL(record, name, options).slice(pb.baseURL.length);
const fields = (more = {}) => [
  { name: 'title', type: 'text' },
  { name: 'one', type: 'file', maxSelect: 1, ...more },
  { name: 'some', type: 'file', maxSelect: 3 },
];

suite('files', () => {
  test('a file goes up with a record and comes down', async (t) => {
    const posts = await make(t, { fields: fields() });
    const pb = client();
    const made = await pb.collection(posts.name).create({ title: 'x', one: file('hello', 'My Notes (1).txt') });
    assert.match(made.one, /^my_notes_1_[a-z0-9]{10}\.txt$/);
    const down = await raw(path(pb, made, made.one));
    assert.deepEqual([down.status, down.text], [200, 'hello']);
    assert.match(down.headers.get('content-type'), /^text\/plain/);
    assert.match(down.headers.get('content-disposition'), /^attachment; filename=/);
    assert.match(down.headers.get('content-security-policy'), /sandbox/);
    assert.match(down.headers.get('cache-control'), /max-age=2592000/);
    assert.ok(down.headers.get('last-modified'));
  });

  test('ranges, conditions and forced downloads', async (t) => {
    const posts = await make(t, { fields: fields() });
    const pb = client();
    const made = await pb.collection(posts.name).create({ one: new File([png], 'dot.png', { type: 'image/png' }) });
    const whole = await raw(path(pb, made, made.one));
    assert.equal(whole.headers.get('content-type'), 'image/png');
    assert.match(whole.headers.get('content-disposition'), /^inline/);
    const part = await raw(path(pb, made, made.one), { headers: { range: 'bytes=1-3' } });
    assert.deepEqual([part.status, part.text, part.headers.get('content-range')], [206, 'PNG', `bytes 1-3/${png.length}`]);
    const same = await raw(path(pb, made, made.one), { headers: { 'if-modified-since': whole.headers.get('last-modified') } });
    assert.equal(same.status, 304);
    const forced = await raw(path(pb, made, made.one, { download: true }));
    assert.match(forced.headers.get('content-disposition'), /^attachment/);
    assert.equal((await raw(path(pb, made, made.one), { headers: { range: 'bytes=9999-' } })).status, 416);
    for (const missing of [path(pb, made, 'nothing.png'), path(pb, { ...made, id: 'nothing' }, made.one), '/api/files/nothing/nothing/x.png']) {
      assert.equal((await raw(missing)).status, 404);
    }
  });

  test('several files: append, prepend, remove, replace', async (t) => {
    const posts = await make(t, { fields: fields() });
    const pb = client();
    const records = pb.collection(posts.name);
    const stems = (record) => record.some.map((name) => name[0]);
    let record = await records.create({ some: [file('b', 'b.txt')] });
    const [b] = record.some;
    record = await records.update(record.id, { 'some+': file('c', 'c.txt') });
    assert.deepEqual(stems(record), ['b', 'c']);
    record = await records.update(record.id, { '+some': [file('a', 'a.txt')] });
    assert.deepEqual(stems(record), ['a', 'b', 'c']);
    assert.equal((await refused(records.update(record.id, { 'some+': file('d', 'd.txt') }), 400)).data.some.code, 'validation_too_many_files');
    record = await records.update(record.id, { 'some-': [b] });
    assert.deepEqual(stems(record), ['a', 'c']);
    await until(async () => (await raw(path(pb, record, b))).status === 404);
    record = await records.update(record.id, { some: [record.some[1], file('e', 'e.txt')] });
    assert.deepEqual(stems(record), ['c', 'e']);
    record = await records.update(record.id, { some: [] });
    assert.deepEqual(record.some, []);
  });

  test('files leave with their record', async (t) => {
    const posts = await make(t, { fields: fields() });
    const pb = client();
    const made = await pb.collection(posts.name).create({ one: file('x', 'x.txt') });
    await pb.collection(posts.name).update(made.id, { title: 'still there' });
    assert.equal((await raw(path(pb, made, made.one))).status, 200);
    await pb.collection(posts.name).delete(made.id);
    await until(async () => (await raw(path(pb, made, made.one))).status === 404);
  });

  test('size, type and number are limited', async (t) => {
    const posts = await make(t, { fields: fields({ maxSize: 10, mimeTypes: ['text/plain'] }) });
    const records = client().collection(posts.name);
    const code = async (body, field) => (await refused(records.create(body), 400)).data[field].code;
    assert.equal(await code({ one: file('more than ten bytes', 'a.txt') }, 'one'), 'validation_file_size_limit');
    assert.equal(await code({ one: new File([png.subarray(0, 9)], 'a.txt', { type: 'text/plain' }) }, 'one'), 'validation_invalid_mime_type');
    assert.equal(await code({ one: 'made_up.txt' }, 'one'), 'validation_invalid_file');
    assert.equal(await code({ some: ['a', 'b', 'c', 'd'].map((name) => file(name, `${name}.txt`)) }, 'some'), 'validation_too_many_files');
  });

  test('forms: texts, numbers, lists and @jsonPayload', async (t) => {
    const posts = await make(t, {
      fields: [
        { name: 'title', type: 'text' }, { name: 'n', type: 'number' }, { name: 'flag', type: 'bool' }, { name: 'data', type: 'json' },
        { name: 'tags', type: 'select', values: ['a', 'b'], maxSelect: 2 }, { name: 'one', type: 'file', maxSelect: 1 },
      ],
    });
    const form = new FormData();
    for (const [key, value] of [['title', '007'], ['n', '12.5'], ['flag', 'true'], ['tags', 'a'], ['tags', 'b']]) form.append(key, value);
    form.append('@jsonPayload', JSON.stringify({ data: { deep: [1, 'x'] } }));
    form.append('one', file('x', 'note.txt'));
    const made = await client().collection(posts.name).create(form);
    assert.deepEqual([made.title, made.n, made.flag, made.tags, made.data], ['007', 12.5, true, ['a', 'b'], { deep: [1, 'x'] }]);
    assert.match(made.one, /^note_\w{10}\.txt$/);
  });

  test('protected files need a token, and the view rule', async (t) => {
    const people = await make(t, { type: 'auth' });
    const posts = await make(t, { fields: fields({ protected: true }), viewRule: '@request.auth.id != "" && @request.context = "protectedFile" || title = "open"' });
    const admin = await superuser();
    const made = await admin.collection(posts.name).create({ title: 'closed', one: file('secret', 's.txt') });
    const ann = await user(people.name);
    const token = await ann.files.getToken();
    assert.equal((await raw(path(ann, made, made.one))).status, 404);
    assert.equal((await raw(path(ann, made, made.one), { token: ann.authStore.token })).status, 404);
    assert.equal((await raw(path(ann, made, made.one, { token: 'garbage' }))).status, 404);
    assert.equal((await raw(path(ann, made, made.one, { token }))).text, 'secret');
    await refused(client().files.getToken(), 401);
  });

  test('thumbs are made of images, in the sizes that a field lists', async (t) => {
    const posts = await make(t, { fields: fields({ thumbs: ['20x10'] }) });
    const pb = client();
    const made = await pb.collection(posts.name).create({ one: new File([png], 'dot.png', { type: 'image/png' }) });
    const size = async (thumb) => {
      const response = await fetch(pb.baseURL + path(pb, made, made.one, { thumb }));
      const bytes = Buffer.from(await response.arrayBuffer());
      return `${bytes.readUInt32BE(16)}x${bytes.readUInt32BE(20)}`;
    };
    assert.equal(await size('20x10'), '20x10');
    assert.equal(await size('100x100'), '100x100');
    assert.equal(await size('30x30'), '1x1');
  });
});
