import { suite, test } from 'node:test';
import { crc32, deflateSync } from 'node:zlib';
import { allowBatches, assert, client, make, parallel, raw, refused, superuser, until, user } from '../support.js';

const file = (content, name, type = 'text/plain') => new File([content], name, { type });
const path = (pb, record, name, options) => pb.files.getURL(record, name, options).slice(pb.baseURL.length);
const fields = (more = {}) => [
  { name: 'title', type: 'text' },
  { name: 'one', type: 'file', maxSelect: 1, ...more },
  { name: 'some', type: 'file', maxSelect: 3 },
];

/** A grey PNG of these sides. */
function png(width, height) {
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const ends = Buffer.alloc(8);
    ends.writeUInt32BE(data.length, 0);
    ends.writeUInt32BE(crc32(body), 4);
    return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
  };
  const head = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  const lines = deflateSync(Buffer.alloc((width + 1) * height));
  return Buffer.concat([Buffer.from('89504e470d0a1a0a', 'hex'), chunk('IHDR', head), chunk('IDAT', lines), chunk('IEND', Buffer.alloc(0))]);
}

suite('storage', () => {
  test('names of files', async (t) => {
    const posts = await make(t, { fields: fields() });
    const records = client().collection(posts.name);
    for (const [name, shape] of [
      ['a.txt', /^a[a-z0-9]{10}_[a-z0-9]{10}\.txt$/],
      ['a.b.c.txt', /^a_b_[a-z0-9]{10}\.c\.txt$/],
      ['helloWorld.TXT', /^hello_world_[a-z0-9]{10}\.TXT$/],
      ['HTTPServer.png', /^httpserver_[a-z0-9]{10}\.png$/],
      ['ünïcode ü.pdf', /^n_code_[a-z0-9]{10}\.pdf$/],
      ['photo.jpeg.PNG', /^photo_[a-z0-9]{10}\.jpeg\.PNG$/],
      ['abc.abcdefghijklmnopqrstuvwxyz', /^abc_[a-z0-9]{10}\.ghijklmnopqrstuvwxyz$/],
      ['noext', /^noext_[a-z0-9]{10}\.txt$/],
    ]) {
      assert.match((await records.create({ one: file('hello', name) })).one, shape);
    }
  });

  test('thumbs are cropped, fitted and scaled', async (t) => {
    const posts = await make(t, { fields: fields({ thumbs: ['20x10', '20x10t', '20x10b', '20x10f', '0x30', '40x0'] }) });
    const pb = client();
    const made = await pb.collection(posts.name).create({ one: new File([png(200, 50)], 'dot.png', { type: 'image/png' }) });
    for (const [thumb, sides] of [['20x10', '20x10'], ['20x10t', '20x10'], ['20x10b', '20x10'], ['20x10f', '20x5'], ['0x30', '120x30'], ['40x0', '40x10'], ['9x9', '200x50']]) {
      const response = await fetch(pb.files.getURL(made, made.one, { thumb }));
      const bytes = Buffer.from(await response.arrayBuffer());
      assert.equal(`${bytes.readUInt32BE(16)}x${bytes.readUInt32BE(20)}`, sides, thumb);
      assert.equal(response.headers.get('content-type'), 'image/png');
    }
    // Not an image, whatever it is called.
    const text = await pb.collection(posts.name).create({ one: new File(['text'], 'dot.png', { type: 'image/png' }) });
    assert.equal((await raw(path(pb, text, text.one, { thumb: '100x100' }))).text, 'text');
  });

  test('types are those of the content', async (t) => {
    const posts = await make(t, { fields: fields() });
    const pb = client();
    for (const [name, content, type, shown] of [
      ['a.png', '<html><body>x</body></html>', /^text\/html/, 'attachment'],
      ['a.svg', '<svg xmlns="http://www.w3.org/2000/svg"/>', /^image\/svg\+xml/, 'attachment'],
      ['a.json', '{"a":1}', /^application\/json/, 'attachment'],
      ['a.css', 'a{color:red}', /^text\/css/, 'attachment'],
      ['a.js', 'alert(1)', /^text\/javascript/, 'attachment'],
      ['a.csv', 'a,b\n1,2\n', /^text\/csv/, 'attachment'],
      ['a.pdf', '%PDF-1.4\n', /^application\/pdf/, 'inline'],
    ]) {
      const made = await pb.collection(posts.name).create({ one: file(content, name, 'application/octet-stream') });
      const { headers } = await raw(path(pb, made, made.one));
      assert.match(headers.get('content-type'), type, name);
      assert.ok(headers.get('content-disposition').startsWith(shown), name);
    }
  });

  test('a file is kept by a change that fails, and goes with its field and its collection', async (t) => {
    const posts = await make(t, { fields: [...fields(), { name: 'must', type: 'text', required: true }] });
    const pb = client();
    const admin = await superuser();
    const records = pb.collection(posts.name);
    const made = await records.create({ one: file('1', 'one.txt'), must: 'x' });
    await refused(records.update(made.id, { one: file('2', 'two.txt'), must: '' }), 400);
    assert.equal((await raw(path(pb, made, made.one))).text, '1');
    const changed = await records.update(made.id, { one: file('2', 'two.txt') });
    assert.equal((await raw(path(pb, changed, changed.one))).text, '2');
    await until(async () => (await raw(path(pb, made, made.one))).status === 404);
    await admin.collections.update(posts.name, { fields: posts.fields.filter(({ name }) => name !== 'one') });
    await until(async () => (await raw(path(pb, changed, changed.one))).status === 404);
  });

  test('superusers and owners read protected files, for as long as the rule admits them', async (t) => {
    const people = await make(t, { type: 'auth' });
    const posts = await make(t, { fields: [...fields({ protected: true }), { name: 'owner', type: 'text' }], viewRule: 'owner = @request.auth.id' });
    const admin = await superuser();
    const [ann, bob] = [await user(people.name), await user(people.name)];
    const made = await admin.collection(posts.name).create({ owner: ann.id, one: file('secret', 's.txt') });
    const get = async (pb) => (await raw(path(pb, made, made.one, { token: await pb.files.getToken() }))).status;
    assert.equal(await get(ann), 200);
    assert.equal(await get(bob), 404);
    await admin.collection(posts.name).update(made.id, { owner: bob.id });
    assert.equal(await get(ann), 404);
    assert.equal(await get(bob), 200);
    // A new password makes all tokens void.
    const token = await bob.files.getToken();
    await admin.collection(people.name).update(bob.id, { password: 'another password', passwordConfirm: 'another password' });
    assert.equal((await raw(path(bob, made, made.one, { token }))).status, 404);
  });

  test('files of a batch by modifiers, and none of a batch that fails', async (t) => {
    await allowBatches();
    const posts = await make(t, { fields: fields() });
    const pb = client();
    const made = await pb.collection(posts.name).create({ some: [file('a', 'a.txt')] });
    const batch = pb.createBatch();
    batch.collection(posts.name).update(made.id, { 'some+': [file('b', 'b.txt'), file('c', 'c.txt')] });
    batch.collection(posts.name).create({ title: 'new', one: file('d', 'd.txt') });
    const [changed, created] = (await batch.send()).map(({ body }) => body);
    assert.deepEqual(changed.some.map((name) => name[0]), ['a', 'b', 'c']);
    assert.equal((await raw(path(pb, created, created.one))).text, 'd');
    const failing = pb.createBatch();
    failing.collection(posts.name).update(made.id, { some: [] });
    failing.collection(posts.name).create({ some: ['e', 'f', 'g', 'h'].map((name) => file(name, `${name}.txt`)) });
    const { data } = await refused(failing.send(), 400, 'Batch transaction failed.');
    assert.equal(data.requests[1].response.data.some.code, 'validation_too_many_files');
    assert.equal((await raw(path(pb, changed, changed.some[0]))).text, 'a');
  });

  test('many uploads at once', async (t) => {
    const posts = await make(t, { fields: fields() });
    const pb = client();
    const made = await parallel(100, 20, (n) => pb.collection(posts.name).create({ title: `${n}`, one: file(`content ${n}`, 'x.txt') }));
    for (const record of made) assert.equal((await raw(path(pb, record, record.one))).text, `content ${record.title}`);
  });
});
