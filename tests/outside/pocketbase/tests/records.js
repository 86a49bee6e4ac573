import { suite, test } from 'node:test';
import { allowBatches, assert, client, make, parallel, raw, refused, superuser, unique } from '../support.js';

const titles = (list) => list.map((record) => record.title);

/** Authors, and posts that belong to one and may have several tags. */
async function library(t) {
  const authors = await make(t, { fields: [{ name: 'title', type: 'text' }] });
  const tags = await make(t, { fields: [{ name: 'title', type: 'text' }] });
  const posts = await make(t, {
    fields: [
      { name: 'title', type: 'text' },
      { name: 'author', type: 'relation', collectionId: authors.id, maxSelect: 1 },
      { name: 'tags', type: 'relation', collectionId: tags.id, maxSelect: 5 },
    ],
  });
  const pb = client();
  const [ann, bob] = await parallel(2, 1, (n) => pb.collection(authors.name).create({ title: ['Ann', 'Bob'][n] }));
  const [red, blue] = await parallel(2, 1, (n) => pb.collection(tags.name).create({ title: ['red', 'blue'][n] }));
  const one = await pb.collection(posts.name).create({ title: 'one', author: ann.id, tags: [red.id, blue.id] });
  const two = await pb.collection(posts.name).create({ title: 'two', author: ann.id, tags: [blue.id] });
  return { pb, authors, tags, posts, ann, bob, red, blue, one, two };
}

suite('records', () => {
  test('create, read, update and delete', async (t) => {
    const posts = await make(t);
    const records = client().collection(posts.name);
    const made = await records.create({ title: 'first', n: 1, unknown: 'ignored' });
    assert.match(made.id, /^[a-z0-9]{15}$/);
    assert.deepEqual(made, { collectionId: posts.id, collectionName: posts.name, id: made.id, n: 1, owner: '', title: 'first' });
    assert.deepEqual(await records.getOne(made.id), made);
    assert.deepEqual(await records.update(made.id, { title: 'second' }), { ...made, title: 'second' });
    assert.deepEqual(await records.update(made.id, {}), { ...made, title: 'second' });
    assert.equal(await records.delete(made.id), true);
    await refused(records.getOne(made.id), 404);
    await refused(records.delete(made.id), 404);
  });

  test('own ids, and the errors of bad ones', async (t) => {
    const posts = await make(t);
    const records = client().collection(posts.name);
    assert.equal((await records.create({ id: 'abcdefghijklmn0' })).id, 'abcdefghijklmn0');
    const code = async (body, expected) => assert.equal((await refused(records.create(body), 400, 'Failed to create record.')).data.id.code, expected);
    await code({ id: 'abcdefghijklmn0' }, 'validation_not_unique');
    await code({ id: 'short' }, 'validation_min_text_constraint');
    await code({ id: 'abcdefghijklmnop' }, 'validation_max_text_constraint');
    await code({ id: 'ABCDEFGHIJKLMNO' }, 'validation_invalid_format');
    const changed = await refused(records.update('abcdefghijklmn0', { id: 'bbbbbbbbbbbbbbb' }), 400, 'Failed to update record.');
    assert.deepEqual(changed.data.id, { code: 'validation_pk_change', message: 'The record primary key cannot be changed.' });
  });

  test('zero values and coercions of every type', async (t) => {
    const posts = await make(t, {
      fields: [
        { name: 'text', type: 'text' }, { name: 'editor', type: 'editor' }, { name: 'number', type: 'number' }, { name: 'bool', type: 'bool' },
        { name: 'email', type: 'email' }, { name: 'url', type: 'url' }, { name: 'date', type: 'date' }, { name: 'json', type: 'json' },
        { name: 'one', type: 'select', values: ['a', 'b'], maxSelect: 1 }, { name: 'some', type: 'select', values: ['a', 'b', 'c'], maxSelect: 2 },
        { name: 'point', type: 'geoPoint' }, { name: 'file', type: 'file', maxSelect: 1 }, { name: 'files', type: 'file', maxSelect: 2 },
      ],
    });
    const records = client().collection(posts.name);
    const zero = await records.create({});
    const shown = ({ id, collectionId, collectionName, ...fields }) => fields;
    assert.deepEqual(shown(zero), {
      text: '', editor: '', number: 0, bool: false, email: '', url: '', date: '', json: null, one: '', some: [],
      point: { lon: 0, lat: 0 }, file: '', files: [],
    });
    const table = [
      ['number', '12', 12], ['number', 'x', 0], ['number', null, 0], ['number', true, 1], ['number', '1e2', 100], ['number', '', 0], ['number', [1], 0],
      ['bool', 'true', true], ['bool', 1, true], ['bool', 't', true], ['bool', 'yes', false], ['bool', 2, true], ['bool', null, false],
      ['text', 5, '5'], ['text', true, 'true'], ['text', 1.5, '1.5'], ['text', null, ''], ['text', { a: 1 }, ''], ['text', '  a ', '  a '],
      ['date', '2024-01-02', '2024-01-02 00:00:00.000Z'], ['date', '2024-01-02T03:04:05+05:30', '2024-01-01 21:34:05.000Z'],
      ['date', '2024-01-02 03:04:05.123456Z', '2024-01-02 03:04:05.123Z'], ['date', 'garbage', ''], ['date', '2024-02-30', ''], ['date', null, ''],
      ['json', 'plain', 'plain'], ['json', '{"a":1}', { a: 1 }], ['json', [1, 'a'], [1, 'a']], ['json', 'true', true], ['json', '', ''], ['json', '12', 12],
      ['one', ['a'], 'a'], ['one', '', ''], ['some', 'a', ['a']], ['some', ['b', 'b'], ['b']], ['some', null, []], ['some', ['a', ''], ['a']],
      ['point', { lon: 1.5, lat: -2 }, { lon: 1.5, lat: -2 }],
    ];
    for (const [field, sent, expected] of table) {
      assert.deepEqual((await records.update(zero.id, { [field]: sent }))[field], expected, `${field}: ${JSON.stringify(sent)}`);
    }
  });

  test('validation names fields, codes, messages and parameters', async (t) => {
    const name = unique();
    const posts = await make(t, {
      fields: [
        { name: 'title', type: 'text', required: true, min: 2, max: 5, pattern: '^[a-z]+$' }, { name: 'n', type: 'number', min: 1, max: 9, onlyInt: true },
        { name: 'b', type: 'bool' }, { name: 'e', type: 'email', onlyDomains: ['example.com'] }, { name: 'u', type: 'url', exceptDomains: ['bad.example'] },
        { name: 's', type: 'select', values: ['a', 'b'], maxSelect: 1 }, { name: 'ss', type: 'select', values: ['a', 'b', 'c'], maxSelect: 2 },
        { name: 'j', type: 'json', maxSize: 20 }, { name: 'g', type: 'geoPoint' },
      ],
      name,
      indexes: [`CREATE UNIQUE INDEX idx_${name} ON ${name} (title)`],
    });
    const records = client().collection(posts.name);
    await records.create({ title: 'taken' });
    const table = [
      [{}, 'title', 'validation_required', 'Cannot be blank.'],
      [{ title: 'a' }, 'title', 'validation_min_text_constraint', 'Must be at least 2 character(s).', { min: 2 }],
      [{ title: 'abcdef' }, 'title', 'validation_max_text_constraint', 'Must be no more than 5 character(s).', { max: 5 }],
      [{ title: 'AB' }, 'title', 'validation_invalid_format', 'Invalid value format.'],
      [{ title: 'taken' }, 'title', 'validation_not_unique', 'Value must be unique.'],
      [{ n: 10 }, 'n', 'validation_max_number_constraint', 'Must be less or equal than 9.', { max: 9 }],
      [{ n: 1.5 }, 'n', 'validation_only_int_constraint', 'Decimal numbers are not allowed.'],
      [{ e: 'x' }, 'e', 'validation_is_email', 'Must be a valid email address.'],
      [{ e: 'a@other.org' }, 'e', 'validation_email_domain_not_allowed'],
      [{ u: 'x' }, 'u', 'validation_invalid_url', 'Must be a valid url.'],
      [{ u: 'http://bad.example/x' }, 'u', 'validation_url_domain_not_allowed'],
      [{ s: 'z' }, 's', 'validation_invalid_value', 'Invalid value z.', { value: 'z' }],
      [{ ss: ['a', 'b', 'c'] }, 'ss', 'validation_too_many_values', 'Select no more than 2.', { maxSelect: 2 }],
      [{ j: 'x'.repeat(30) }, 'j', 'validation_json_size_limit', 'The maximum allowed JSON size is 20 bytes.', { maxSize: 20 }],
      [{ g: { lon: 200, lat: 0 } }, 'g', 'validation_invalid_longitude'],
      [{ g: { lon: 0, lat: 91 } }, 'g', 'validation_invalid_latitude'],
    ];
    for (const [more, field, code, message, params] of table) {
      const body = Object.keys(more).length === 0 || 'title' in more ? more : { title: 'ok', ...more };
      const { data } = await refused(records.create(body), 400, 'Failed to create record.');
      assert.deepEqual(Object.keys(data), [field], JSON.stringify(more));
      assert.equal(data[field].code, code);
      if (message) assert.equal(data[field].message, message);
      if (params) assert.deepEqual(data[field].params, params);
    }
  });

  test('autodate fields are set by the server', async (t) => {
    const posts = await make(t, {
      fields: [
        { name: 'title', type: 'text' },
        { name: 'created', type: 'autodate', onCreate: true },
        { name: 'updated', type: 'autodate', onCreate: true, onUpdate: true },
      ],
    });
    const records = client().collection(posts.name);
    const made = await records.create({ created: '2001-01-01', updated: '2001-01-01' });
    assert.match(made.created, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z$/);
    assert.ok(Math.abs(Date.parse(made.created) - Date.now()) < 60_000);
    const later = await records.update(made.id, { title: 'x', created: '2001-01-01' });
    assert.equal(later.created, made.created);
    assert.ok(later.updated >= made.updated);
  });

  test('modifiers add, append, prepend and remove', async (t) => {
    const posts = await make(t, {
      fields: [
        { name: 'n', type: 'number' },
        { name: 'some', type: 'select', values: ['a', 'b', 'c', 'd'], maxSelect: 4 },
        { name: 'code', type: 'text', autogeneratePattern: '[a-z]{8}' },
      ],
    });
    const records = client().collection(posts.name);
    const { id } = await records.create({ n: 5, some: ['b'] });
    const table = [
      [{ 'n+': 3 }, 'n', 8], [{ 'n-': 1.5 }, 'n', 6.5], [{ 'n+': 'x' }, 'n', 6.5],
      [{ 'some+': 'c' }, 'some', ['b', 'c']], [{ 'some+': ['c', 'd'] }, 'some', ['b', 'c', 'd']], [{ '+some': 'a' }, 'some', ['a', 'b', 'c', 'd']],
      [{ 'some-': ['b', 'd'] }, 'some', ['a', 'c']], [{ 'some-': 'none' }, 'some', ['a', 'c']],
    ];
    for (const [body, field, expected] of table) assert.deepEqual((await records.update(id, body))[field], expected, JSON.stringify(body));
    const made = await records.create({ 'n+': 2, 'code:autogenerate': '' });
    assert.equal(made.n, 2);
    assert.match(made.code, /^[a-z]{8}$/);
    assert.match((await records.create({ 'code:autogenerate': 'pre-' })).code, /^pre-[a-z]{8}$/);
  });

  test('lists have pages, totals and an order', async (t) => {
    const posts = await make(t);
    const records = client().collection(posts.name);
    await parallel(25, 1, (n) => records.create({ n, title: `t${n % 5}` }));
    const page = await records.getList(2, 10, { sort: '-n' });
    assert.deepEqual([page.page, page.perPage, page.totalItems, page.totalPages], [2, 10, 25, 3]);
    assert.deepEqual(page.items.map((record) => record.n), [14, 13, 12, 11, 10, 9, 8, 7, 6, 5]);
    assert.deepEqual((await records.getFullList({ sort: 'title,-n', batch: 7 })).slice(0, 6).map((record) => record.n), [20, 15, 10, 5, 0, 21]);
    assert.equal((await records.getFirstListItem('n > 20', { sort: 'n' })).n, 21);
    assert.equal((await records.getFullList({ sort: '@random' })).length, 25);
    assert.deepEqual((await records.getFullList({ sort: '@rowid' })).map((record) => record.n), Array.from({ length: 25 }, (_, n) => n));
  });

  test('full lists of more than a page are whole', async (t) => {
    await allowBatches();
    const posts = await make(t);
    const pb = client();
    for (let first = 0; first < 1050; first += 50) {
      const batch = pb.createBatch();
      for (let n = first; n < first + 50; n++) batch.collection(posts.name).create({ n });
      await batch.send();
    }
    const all = await pb.collection(posts.name).getFullList({ sort: 'n', fields: 'n' });
    assert.deepEqual(all.map((record) => record.n), Array.from({ length: 1050 }, (_, n) => n));
  });

  test('fields choose what an answer has', async (t) => {
    const { pb, posts, one } = await library(t);
    const records = pb.collection(posts.name);
    assert.deepEqual(await records.getOne(one.id, { fields: 'id,title' }), { id: one.id, title: 'one' });
    const expanded = await records.getOne(one.id, { fields: 'title,expand.author.title', expand: 'author' });
    assert.deepEqual(expanded, { title: 'one', expand: { author: { title: 'Ann' } } });
    assert.deepEqual(Object.keys(await records.getOne(one.id, { fields: '*' })).sort(), Object.keys(one).sort());
    const list = await records.getList(1, 1, { fields: 'title', sort: 'title' });
    assert.deepEqual(list.items, [{ title: 'one' }]);
    assert.equal(list.totalItems, 2);
    assert.deepEqual(await records.create({ title: '<p>A long <b>text</b></p>' }, { fields: 'title:excerpt(6,true)' }), { title: 'A long...' });
    assert.deepEqual(await records.getOne(one.id, { fields: 'nothing' }), {});
  });

  test('expand follows relations, nested and back', async (t) => {
    const { pb, authors, posts, ann, bob, red, blue, one } = await library(t);
    const expanded = await pb.collection(posts.name).getOne(one.id, { expand: 'author,tags,nothing' });
    assert.deepEqual(expanded.expand.author, ann);
    assert.deepEqual(expanded.expand.tags, [red, blue]);
    assert.deepEqual(Object.keys(expanded.expand).sort(), ['author', 'tags']);
    const back = `${posts.name}_via_author`;
    const [first, second] = await pb.collection(authors.name).getFullList({ sort: 'title', expand: `${back}.tags` });
    assert.deepEqual(titles(first.expand[back]).sort(), ['one', 'two']);
    assert.deepEqual(titles(first.expand[back].find((post) => post.title === 'two').expand.tags), ['blue']);
    assert.equal(second.id, bob.id);
    assert.ok(!second.expand?.[back]);
  });

  test('expand leaves out what its view rule hides', async (t) => {
    const { pb, authors, posts, one, ann } = await library(t);
    await (await superuser()).collections.update(authors.id, { viewRule: null });
    const seen = await pb.collection(posts.name).getOne(one.id, { expand: 'author' });
    assert.equal(seen.author, ann.id);
    assert.equal(seen.expand?.author, undefined);
    assert.equal((await (await superuser()).collection(posts.name).getOne(one.id, { expand: 'author' })).expand.author.id, ann.id);
  });

  test('relations are checked, and deletions follow them', async (t) => {
    const authors = await make(t);
    const field = (more) => [{ name: 'author', type: 'relation', collectionId: authors.id, maxSelect: 1, ...more }];
    const [loose, owned, required] = [
      await make(t, { fields: field({}) }), await make(t, { fields: field({ cascadeDelete: true }) }), await make(t, { fields: field({ required: true }) }),
    ];
    const pb = client();
    const missing = await refused(pb.collection(loose.name).create({ author: 'aaaaaaaaaaaaaaa' }), 400);
    assert.equal(missing.data.author.code, 'validation_missing_rel_records');
    const author = await pb.collection(authors.name).create({});
    const [a, b] = [await pb.collection(loose.name).create({ author: author.id }), await pb.collection(owned.name).create({ author: author.id })];
    const c = await pb.collection(required.name).create({ author: author.id });
    await refused(pb.collection(authors.name).delete(author.id), 400);
    assert.equal((await pb.collection(loose.name).getOne(a.id)).author, author.id);
    await pb.collection(required.name).delete(c.id);
    await pb.collection(authors.name).delete(author.id);
    assert.equal((await pb.collection(loose.name).getOne(a.id)).author, '');
    await refused(pb.collection(owned.name).getOne(b.id), 404);
  });

  test('an answer of any status is JSON, an empty one 204', async (t) => {
    const posts = await make(t);
    const path = `/api/collections/${posts.name}/records`;
    const made = await raw(path, { method: 'POST' });
    assert.match(made.headers.get('content-type'), /^application\/json/);
    const gone = await raw(`${path}/${made.json.id}`, { method: 'DELETE' });
    assert.deepEqual([gone.status, gone.text], [204, '']);
    const missing = await raw(`${path}/${made.json.id}`);
    assert.deepEqual(missing.json, { data: {}, message: "The requested resource wasn't found.", status: 404 });
    assert.match(missing.headers.get('content-type'), /^application\/json/);
  });
});
