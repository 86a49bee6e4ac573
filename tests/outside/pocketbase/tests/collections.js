import { suite, test } from 'node:test';
import { assert, client, follow, later, make, open, refused, superuser, unique } from '../support.js';

suite('collections', () => {
  test('a collection has its defaults, fields and ids', async (t) => {
    const posts = await make(t, { fields: [{ name: 'title', type: 'text' }], listRule: null });
    assert.deepEqual([posts.type, posts.system, posts.listRule, posts.viewRule, posts.indexes.length], ['base', false, null, '', 0]);
    const [id, title] = posts.fields;
    assert.deepEqual([id.name, id.primaryKey, id.system, id.pattern, id.min, id.max], ['id', true, true, '^[a-z0-9]+$', 15, 15]);
    assert.deepEqual({ ...title, id: '' }, {
      autogeneratePattern: '', help: '', hidden: false, id: '', max: 0, min: 0, name: 'title', pattern: '', presentable: false, primaryKey: false,
      required: false, system: false, type: 'text',
    });
    assert.match(posts.created, /Z$/);
    const admin = await superuser();
    for (const name of [posts.id, posts.name]) assert.equal((await admin.collections.getOne(name)).id, posts.id);
    assert.equal((await client().collection(posts.id).create({ title: 'by id' })).collectionName, posts.name);
  });

  test('lists of collections are filtered and sorted', async (t) => {
    const posts = await make(t);
    const admin = await superuser();
    const found = await admin.collections.getList(1, 5, { filter: `name = "${posts.name}"` });
    assert.deepEqual(found.items.map((item) => item.id), [posts.id]);
    const auth = await admin.collections.getFullList({ filter: 'type = "auth" && system = true', sort: 'name' });
    assert.deepEqual(auth.map((item) => item.name), ['_superusers']);
    await refused(admin.collections.getList(1, 1, { filter: 'nothing = 1' }), 400);
  });

  test('invalid collections name what is wrong', async (t) => {
    const admin = await superuser();
    const posts = await make(t);
    const text = (name, more) => ({ name, type: 'text', ...more });
    const table = [
      [{ name: '' }, (data) => data.name, 'validation_required'],
      [{ name: 'no spaces' }, (data) => data.name, 'validation_match_invalid'],
      [{ name: posts.name }, (data) => data.name, 'validation_collection_name_exists'],
      [{ name: posts.name.toUpperCase() }, (data) => data.name, 'validation_collection_name_exists'],
      [{ type: 'nothing' }, (data) => data.type, 'validation_in_invalid'],
      [{ fields: [text('a'), text('A')] }, (data) => data.fields[2].name, 'validation_duplicated_field_name'],
      [{ fields: [text('a_via_b')] }, (data) => data.fields[1].name, 'validation_found_via'],
      [{ fields: [text('expand')] }, (data) => data.fields[1].name, 'validation_not_in_invalid'],
      [{ fields: [{ name: 's', type: 'select' }] }, (data) => data.fields[1].values, 'validation_required'],
      [{ fields: [{ name: 'r', type: 'relation' }] }, (data) => data.fields[1].collectionId, 'validation_required'],
      [{ fields: [{ name: 'r', type: 'relation', collectionId: 'nothing' }] }, (data) => data.fields[1].collectionId,
        'validation_field_relation_missing_collection'],
      [{ listRule: 'nothing = 1' }, (data) => data.listRule, 'validation_invalid_rule'],
      [{ createRule: '((' }, (data) => data.createRule, 'validation_invalid_rule'],
      [{ indexes: ['create index bad'] }, (data) => data.indexes[0], 'validation_invalid_index_expression'],
    ];
    for (const [more, at, code] of table) {
      const answer = await refused(admin.collections.create({ name: unique(), type: 'base', ...more }), 400, 'Failed to create collection.');
      assert.equal(at(answer.data)?.code, code, JSON.stringify(more));
    }
    await refused(admin.collections.create({ name: unique(), type: 'base', fields: [{ name: 'x', type: 'nothing' }] }), 400,
      'Failed to load the submitted data due to invalid formatting.');
  });

  test('a changed schema keeps the data of known fields', async (t) => {
    const admin = await superuser();
    const posts = await make(t);
    const made = await client().collection(posts.name).create({ title: 'kept', n: 5, owner: 'dropped' });
    const [id, title, n] = posts.fields;
    const changed = await admin.collections.update(posts.id, {
      fields: [id, { ...title, name: 'headline' }, n, { name: 'more', type: 'bool' }], listRule: 'n > 0',
    });
    assert.deepEqual(changed.fields.map((field) => field.name), ['id', 'headline', 'n', 'more']);
    const { id: recordId, collectionId, collectionName, ...fields } = await client().collection(posts.name).getOne(made.id);
    assert.deepEqual(fields, { headline: 'kept', n: 5, more: false });
    const renamed = unique();
    await admin.collections.update(posts.id, { name: renamed });
    later(t, () => admin.collections.update(posts.id, { name: posts.name }));
    assert.equal((await client().collection(renamed).getOne(recordId)).collectionName, renamed);
    await refused(client().collection(posts.name).getOne(recordId), 404);
    await refused(admin.collections.update(posts.id, { type: 'auth' }), 400, 'Failed to update collection.');
  });

  test('unique indexes are enforced, whole and in part', async (t) => {
    const name = unique();
    const posts = await make(t, {
      name,
      indexes: [
        `CREATE UNIQUE INDEX idx_${name}_1 ON ${name} (title COLLATE NOCASE) WHERE title != ''`,
        `CREATE UNIQUE INDEX \`idx_${name}_2\` ON \`${name}\` (\`owner\`, \`n\`)`,
        `CREATE INDEX idx_${name}_3 ON ${name} (n)`,
      ],
    });
    assert.equal(posts.indexes.length, 3);
    const records = client().collection(name);
    await records.create({ title: 'Once', owner: 'a' });
    assert.equal((await refused(records.create({ title: 'ONCE', n: 1 }), 400)).data.title.code, 'validation_not_unique');
    await records.create({ owner: 'b' });
    await records.create({ owner: 'c' });
    const pair = (await refused(records.create({ owner: 'c' }), 400)).data;
    assert.deepEqual(Object.keys(pair).sort(), ['n', 'owner']);
    assert.equal(pair.owner.code, 'validation_not_unique');
  });

  test('import is all or nothing', async (t) => {
    const admin = await superuser();
    const [first, second] = [unique(), unique()];
    const collection = (name) => ({ name, type: 'base', ...open, fields: [{ name: 'title', type: 'text' }] });
    later(t, async () => {
      for (const name of [first, second]) await admin.collections.delete(name).catch(() => {});
    });
    const failed = await refused(admin.collections.import([collection(first), { name: '!!', type: 'base' }]), 400, 'Failed to import collections.');
    assert.equal(failed.data.collections.code, 'validation_collections_import_failure');
    await refused(admin.collections.getOne(first), 404);
    assert.equal(await admin.collections.import([collection(first), collection(second)]), true);
    assert.equal((await client().collection(second).create({ title: 'x' })).title, 'x');
    await refused(admin.collections.import([]), 400, 'An error occurred while validating the submitted data.');
  });

  test('scaffolds of the types', async () => {
    const scaffolds = await (await superuser()).collections.getScaffolds();
    assert.deepEqual(Object.keys(scaffolds).sort(), ['auth', 'base', 'view']);
    assert.deepEqual(scaffolds.auth.fields.map((field) => field.name), ['id', 'password', 'tokenKey', 'email', 'emailVisibility', 'verified']);
    assert.equal(scaffolds.auth.authToken.duration, 432000);
    assert.deepEqual(scaffolds.auth.passwordAuth, { enabled: true, identityFields: ['email'] });
  });

  test('system collections and used ones stay', async (t) => {
    const admin = await superuser();
    await refused(admin.collections.delete('_superusers'), 400);
    const renamed = await refused(admin.collections.update('_superusers', { name: 'others' }), 400);
    assert.equal(renamed.data.name.code, 'validation_collection_system_name_change');
    const [only] = await admin.collection('_superusers').getFullList();
    if ((await admin.collection('_superusers').getList()).totalItems === 1) await refused(admin.collection('_superusers').delete(only.id), 400);
    const authors = await make(t);
    await make(t, { fields: [{ name: 'author', type: 'relation', collectionId: authors.id, maxSelect: 1 }] });
    await refused(admin.collections.delete(authors.name), 400);
  });

  test('a view is read like a collection and not written', async (t) => {
    const admin = await superuser();
    const posts = await make(t);
    const view = await make(t, {
      type: 'view', viewQuery: `select id, title, (n * 2) as twice from ${posts.name} where n > 0`,
      createRule: undefined, updateRule: undefined, deleteRule: undefined,
    });
    assert.deepEqual(view.fields.map((field) => field.name), ['id', 'title', 'twice']);
    const made = await client().collection(posts.name).create({ title: 'a', n: 4 });
    await client().collection(posts.name).create({ title: 'b', n: 0 });
    const seen = await client().collection(view.name).getFullList({ filter: 'title = "a"' });
    assert.deepEqual(seen.map(({ id, title, twice }) => ({ id, title, twice })), [{ id: made.id, title: 'a', twice: 8 }]);
    await refused(admin.collection(view.name).create({}), 400);
    const events = await follow(t, client(), posts.name);
    const silent = await follow(t, client(), view.name);
    await client().collection(posts.name).update(made.id, { n: 5 });
    await events.next();
    assert.equal(silent.events.length, 0);
  });
});
