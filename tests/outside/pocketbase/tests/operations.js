import { suite, test } from 'node:test';
import { assert, client, later, mailbox, make, raw, refused, superuser, until } from '../support.js';

suite('operations', () => {
  test('health has more for superusers', async () => {
    assert.deepEqual((await client().health.check()).data, {});
    const full = await (await superuser()).health.check();
    assert.deepEqual([full.code, typeof full.message], [200, 'string']);
    assert.equal((await raw('/api/health?fields=code')).text, '{"code":200}');
    assert.equal((await raw('/api/health', { method: 'HEAD' })).status, 200);
  });

  test('settings are read, merged and validated, without their secrets', async () => {
    const admin = await superuser();
    const before = await admin.settings.getAll();
    for (const section of ['meta', 'smtp', 'batch', 'rateLimits', 'logs', 'trustedProxy', 's3', 'backups']) assert.ok(before[section], section);
    const changed = await admin.settings.update({ meta: { ...before.meta, appName: 'Renamed' }, smtp: { ...before.smtp, password: 'secret' }, nothing: 1 });
    assert.equal(changed.meta.appName, 'Renamed');
    assert.equal(changed.meta.appURL, before.meta.appURL);
    assert.ok(!JSON.stringify(await admin.settings.getAll()).includes('secret"'));
    await admin.settings.update({ meta: before.meta, smtp: { ...before.smtp, password: '' } });
    const { data } = await refused(admin.settings.update({ meta: { appURL: 'x' }, batch: { maxRequests: -1 } }), 400,
      'An error occurred while saving the new settings.');
    assert.equal(data.meta.appURL.code, 'validation_is_url');
    assert.equal(data.batch.maxRequests.code, 'validation_min_greater_equal_than_required');
    assert.equal((await admin.settings.getAll()).meta.appName, before.meta.appName);
  });

  test('a rate limit answers 429', async (t) => {
    const posts = await make(t);
    const other = await make(t);
    const admin = await superuser();
    const { rateLimits } = await admin.settings.getAll();
    const rule = { label: `${posts.name}:list`, audience: '', duration: 60, maxRequests: 3 };
    await admin.settings.update({ rateLimits: { enabled: true, rules: [rule], excludedIPs: [] } });
    try {
      const statuses = [];
      for (let n = 0; n < 5; n++) statuses.push((await raw(`/api/collections/${posts.name}/records`)).status);
      assert.deepEqual(statuses, [200, 200, 200, 429, 429]);
      const answer = await raw(`/api/collections/${posts.name}/records`);
      assert.deepEqual(answer.json, { data: {}, message: 'Too Many Requests.', status: 429 });
      assert.equal((await client().collection(other.name).getList()).totalItems, 0);
      await client().collection(posts.name).create({});
    } finally {
      await admin.settings.update({ rateLimits });
    }
  });

  test('a test email is sent', async (t) => {
    const mail = await mailbox(t);
    const admin = await superuser();
    assert.equal(await admin.settings.testEmail('_superusers', 'someone@example.com', 'verification'), true);
    await until(() => mail.mails.some((sent) => sent.to === 'someone@example.com'));
    const { data } = await refused(admin.settings.testEmail('_superusers', 'x', ''), 400, 'Failed to send the test email.');
    assert.equal(data.email.code, 'validation_is_email');
  });

  test('requests are logged', async (t) => {
    const posts = await make(t);
    const admin = await superuser();
    const { logs } = await admin.settings.getAll();
    await admin.settings.update({ logs: { minLevel: 0 } });
    later(t, () => admin.settings.update({ logs }));
    await client().collection(posts.name).getList();
    const filter = `data.url ~ "${posts.name}" && data.method = "GET"`;
    await until(async () => (await admin.logs.getList(1, 1, { filter })).totalItems > 0);
    const [entry] = (await admin.logs.getList(1, 1, { filter, sort: '-created' })).items;
    assert.equal(entry.data.status, 200);
    assert.equal((await admin.logs.getOne(entry.id)).id, entry.id);
    assert.ok((await admin.logs.getStats({ filter })).reduce((sum, hour) => sum + hour.total, 0) > 0);
    await refused(client().collection(posts.name).getOne('nothing'), 404);
    const failed = `data.url ~ "${posts.name}" && data.status >= 400 && level > 4`;
    await until(async () => (await admin.logs.getList(1, 1, { filter: failed })).totalItems > 0);
    await refused(admin.logs.getList(1, 1, { filter: 'nothing = 1' }), 400);
    await refused(admin.logs.getOne('nothing'), 404);
    await refused(client().logs.getList(), 401);
  });

  test('periodic jobs are listed and run', async () => {
    const admin = await superuser();
    const jobs = await admin.crons.getFullList();
    assert.ok(jobs.length > 0 && jobs.every((job) => job.id && job.expression));
    assert.equal(await admin.crons.run(jobs.find((job) => /clean|optimize/i.test(job.id)).id), true);
    await refused(admin.crons.run('nothing'), 404);
  });
});
