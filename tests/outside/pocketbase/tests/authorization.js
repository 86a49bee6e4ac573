import { suite, test } from 'node:test';
import { assert, client, delay, follow, make, refused, secret, superuser, user } from '../support.js';

const users = '@request.auth.id != ""';

suite('authorization', () => {
  test('an empty rule is public', async (t) => {
    const posts = await make(t);
    const guest = client();
    const made = await guest.collection(posts.name).create({ title: 'a' });
    assert.equal((await guest.collection(posts.name).getOne(made.id)).title, 'a');
    assert.equal((await guest.collection(posts.name).getList()).totalItems, 1);
    await guest.collection(posts.name).update(made.id, { title: 'b' });
    await guest.collection(posts.name).delete(made.id);
  });

  test('a null rule is for superusers', async (t) => {
    const none = { listRule: null, viewRule: null, createRule: null, updateRule: null, deleteRule: null };
    const locked = await make(t, none);
    const people = await make(t, { type: 'auth' });
    const admin = await superuser();
    const made = await admin.collection(locked.name).create({ title: 'secret' });
    const message = 'Only superusers can perform this action.';
    for (const pb of [client(), await user(people.name)]) {
      const records = pb.collection(locked.name);
      await refused(records.getList(), 403, message);
      await refused(records.getOne(made.id), 403, message);
      await refused(records.create({}), 403, message);
      await refused(records.update(made.id, {}), 403, message);
      await refused(records.delete(made.id), 403, message);
    }
    assert.equal((await admin.collection(locked.name).getOne(made.id)).title, 'secret');
  });

  test('a rule that fails is an empty list, a 404, or a 400 on create', async (t) => {
    const posts = await make(t, { listRule: users, viewRule: users, createRule: users, updateRule: users, deleteRule: users });
    const admin = await superuser();
    const made = await admin.collection(posts.name).create({ title: 'x' });
    const records = client().collection(posts.name);
    assert.deepEqual(await records.getList(), { items: [], page: 1, perPage: 30, totalItems: 0, totalPages: 0 });
    const missing = "The requested resource wasn't found.";
    await refused(records.getOne(made.id), 404, missing);
    await refused(records.update(made.id, {}), 404, missing);
    await refused(records.delete(made.id), 404, missing);
    await refused(records.create({ title: 'y' }), 400, 'Failed to create record.');
  });

  test('an owner rule guards reading, writing and following', async (t) => {
    const people = await make(t, { type: 'auth' });
    const own = 'owner = @request.auth.id';
    const posts = await make(t, {
      listRule: own, viewRule: own, updateRule: own, deleteRule: own, createRule: '@request.auth.id != "" && @request.body.owner = @request.auth.id',
    });
    const [ann, bob] = [await user(people.name), await user(people.name)];
    const events = [await follow(t, ann, posts.name), await follow(t, bob, posts.name)];
    const of = (pb) => pb.collection(posts.name);
    const first = await of(ann).create({ owner: ann.id, title: 'of ann' });
    await refused(of(ann).create({ owner: bob.id }), 400);
    await of(bob).create({ owner: bob.id, title: 'of bob' });
    await refused(of(bob).getOne(first.id), 404);
    await refused(of(bob).update(first.id, { title: 'taken' }), 404);
    await refused(of(bob).delete(first.id), 404);
    assert.deepEqual((await of(bob).getFullList()).map((record) => record.title), ['of bob']);
    assert.equal((await events[0].next()).record.title, 'of ann');
    assert.equal((await events[1].next()).record.title, 'of bob');
    assert.equal(events[0].unread + events[1].unread, 0);
  });

  test('update rules see the record as it is, and the body', async (t) => {
    const posts = await make(t, { updateRule: 'n < 5 && (@request.body.n:isset = false || @request.body.n > n)' });
    const records = client().collection(posts.name);
    const made = await records.create({ n: 1 });
    await records.update(made.id, { title: 'fine' });
    await refused(records.update(made.id, { n: 0 }), 404);
    await records.update(made.id, { n: 10 });
    await refused(records.update(made.id, { title: 'too late' }), 404);
  });

  test('a refreshed token replaces the old one', async (t) => {
    const people = await make(t, { type: 'auth' });
    const ann = await user(people.name);
    const before = ann.authStore.token;
    await delay(1100); // Tokens count in seconds.
    const answer = await ann.collection(people.name).authRefresh();
    assert.equal(answer.record.id, ann.id);
    assert.notEqual(answer.token, before);
    assert.equal(ann.authStore.token, answer.token);
    assert.equal(ann.authStore.isValid, true);
  });

  test('an expired token counts as a guest', async (t) => {
    const people = await make(t, { type: 'auth' });
    const posts = await make(t, { listRule: users, viewRule: users });
    const admin = await superuser();
    const made = await admin.collection(posts.name).create({});
    const ann = await user(people.name);
    const lent = await admin.collection(people.name).impersonate(ann.id, 1);
    assert.equal(lent.authStore.record.id, ann.id);
    await lent.collection(posts.name).getOne(made.id);
    await delay(2100);
    assert.equal(lent.authStore.isValid, false);
    await refused(lent.collection(posts.name).getOne(made.id), 404);
    await refused(lent.collection(people.name).authRefresh(), 401, 'The request requires valid record authorization token.');
  });

  test('a changed password makes a connection a guest at once', async (t) => {
    const people = await make(t, { type: 'auth' });
    const posts = await make(t, { listRule: `${users} || title = "open"` });
    const ann = await user(people.name);
    const events = await follow(t, ann, posts.name);
    const admin = await superuser();
    await admin.collection(posts.name).create({ title: 'as a user' });
    assert.equal((await events.next()).record.title, 'as a user');
    const next = 'another long password';
    await ann.collection(people.name).update(ann.id, { oldPassword: secret, password: next, passwordConfirm: next });
    await refused(ann.collection(people.name).authRefresh(), 401);
    await admin.collection(posts.name).create({ title: 'closed' });
    await admin.collection(posts.name).create({ title: 'open' });
    assert.equal((await events.next()).record.title, 'open');
    assert.equal(events.unread, 0);
  });

  test('hidden fields and emails are shown to those who may see them', async (t) => {
    const people = await make(t, { type: 'auth' });
    const posts = await make(t, { fields: [{ name: 'title', type: 'text' }, { name: 'inner', type: 'text', hidden: true }] });
    const admin = await superuser();
    const [guestEvents, adminEvents] = [await follow(t, client(), posts.name), await follow(t, admin, posts.name)];
    const made = await admin.collection(posts.name).create({ title: 'a', inner: 'secret' });
    assert.equal(made.inner, 'secret');
    assert.equal('inner' in (await client().collection(posts.name).getOne(made.id)), false);
    assert.equal('inner' in (await guestEvents.next()).record, false);
    assert.equal((await adminEvents.next()).record.inner, 'secret');
    await client().collection(posts.name).update(made.id, { inner: 'overwritten' });
    assert.equal((await admin.collection(posts.name).getOne(made.id)).inner, 'secret');
    await refused(client().collection(posts.name).getList(1, 1, { filter: 'inner = "secret"' }), 400);
    await refused(client().collection(posts.name).getList(1, 1, { sort: 'inner' }), 400);

    const [ann, bob] = [await user(people.name), await user(people.name, { emailVisibility: true })];
    const seen = await ann.collection(people.name).getFullList({ sort: 'id' });
    const emails = Object.fromEntries(seen.map((record) => [record.id, record.email]));
    assert.equal(emails[ann.id], ann.email);
    assert.equal(emails[bob.id], bob.email);
    const others = await bob.collection(people.name).getOne(ann.id);
    assert.equal(others.email, undefined);
    assert.equal((await bob.collection(people.name).getList(1, 1, { filter: `email = "${ann.email}"` })).totalItems, 0);
    assert.equal((await bob.collection(people.name).getList(1, 1, { filter: `email = "${bob.email}"` })).totalItems, 1);
  });

  test('clients may not filter by the request or other collections, superusers may', async (t) => {
    const posts = await make(t);
    const guest = client().collection(posts.name);
    await refused(guest.getList(1, 1, { filter: '@request.auth.id = ""' }), 403, 'Only superusers can filter by @request.');
    await refused(guest.getList(1, 1, { filter: '@collection.users.id != ""' }), 403, 'Only superusers can filter by @collection.');
    const admin = (await superuser()).collection(posts.name);
    await admin.create({ title: 'x' });
    assert.equal((await admin.getList(1, 1, { filter: '@request.auth.id != "" && @request.method = "GET"' })).totalItems, 1);
  });

  test('superuser routes answer guests and users differently', async (t) => {
    const people = await make(t, { type: 'auth' });
    const ann = await user(people.name);
    await refused(client().collections.getList(), 401, 'The request requires valid record authorization token.');
    await refused(ann.collections.getList(), 403, 'The authorized record is not allowed to perform this action.');
    await refused(client().settings.getAll(), 401);
    await refused(ann.collection(people.name).impersonate(ann.id, 10), 403);
    await refused(client().collection(people.name).authRefresh(), 401);
  });
});
