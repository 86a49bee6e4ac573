import { suite, test } from 'node:test';
import { assert, client, mailbox, make, raw, refused, secret, superuser, unique, user } from '../support.js';

const wrong = 'Failed to authenticate.';
const invalid = 'An error occurred while validating the submitted data.';

suite('auth', () => {
  test('sign up and log in', async (t) => {
    const people = await make(t, { type: 'auth' });
    const email = `${unique('u')}@example.com`;
    const pb = client();
    const made = await pb.collection(people.name).create({ email, password: secret, passwordConfirm: secret });
    assert.deepEqual(Object.keys(made).sort(), ['collectionId', 'collectionName', 'emailVisibility', 'id', 'verified']);
    const { token, record } = await pb.collection(people.name).authWithPassword(email, secret);
    assert.deepEqual(Object.keys(record).sort(), ['collectionId', 'collectionName', 'email', 'emailVisibility', 'id', 'verified']);
    assert.deepEqual([record.id, record.email, record.verified], [made.id, email, false]);
    const claims = JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString());
    assert.deepEqual([claims.id, claims.type, claims.collectionId, claims.refreshable], [made.id, 'auth', people.id, true]);
    assert.ok(Math.abs(claims.exp - Date.now() / 1000 - 432_000) < 60);
    assert.equal(pb.authStore.isValid, true);
    pb.authStore.clear();
    await refused(pb.collection(people.name).authRefresh(), 401);
  });

  test('wrong credentials are told nothing', async (t) => {
    const people = await make(t, { type: 'auth' });
    const ann = await user(people.name);
    const auth = (identity, password, options) => client().collection(people.name).authWithPassword(identity, password, options);
    for (const [identity, password] of [[ann.email, 'wrong password'], ['nobody@example.com', secret], [ann.email.toUpperCase(), secret]]) {
      assert.deepEqual((await refused(auth(identity, password), 400, wrong)).data, {});
    }
    assert.equal((await refused(auth('', ''), 400, invalid)).data.identity.code, 'validation_required');
    const unknown = await refused(auth(ann.email, secret, { body: { identity: ann.email, password: secret, identityField: 'nothing' } }), 400, invalid);
    assert.equal(unknown.data.identityField.code, 'validation_in_invalid');
  });

  test('another identity field, and passwords switched off', async (t) => {
    const name = unique();
    const people = await make(t, {
      name, type: 'auth', fields: [{ name: 'username', type: 'text' }],
      indexes: [`CREATE UNIQUE INDEX idx_${name}_u ON ${name} (username COLLATE NOCASE) WHERE username != ''`],
      passwordAuth: { enabled: true, identityFields: ['email', 'username'] },
    });
    const ann = await user(people.name, { username: 'Ann' });
    assert.equal((await client().collection(name).authWithPassword('ann', secret)).record.id, ann.id);
    assert.equal((await client().collection(name).authWithPassword(ann.email, secret, {
      body: { identity: ann.email, password: secret, identityField: 'email' },
    })).record.id, ann.id);
    await (await superuser()).collections.update(people.id, { passwordAuth: { enabled: false } });
    await refused(client().collection(name).authWithPassword('ann', secret), 403, 'The collection is not configured to allow password authentication.');
    assert.equal((await client().collection(name).listAuthMethods()).password.enabled, false);
  });

  test('methods of a collection', async (t) => {
    const people = await make(t, { type: 'auth' });
    assert.deepEqual(await client().collection(people.name).listAuthMethods(), {
      mfa: { enabled: false, duration: 0 }, otp: { enabled: false, duration: 0 },
      password: { enabled: true, identityFields: ['email'] }, oauth2: { enabled: false, providers: [] },
    });
  });

  test('passwords and emails are validated', async (t) => {
    const people = await make(t, { type: 'auth' });
    const ann = await user(people.name);
    const base = { email: 'new@example.com', password: secret, passwordConfirm: secret };
    const table = [
      [{ password: undefined, passwordConfirm: undefined }, 'password', 'validation_required'],
      [{ password: 'short', passwordConfirm: 'short' }, 'password', 'validation_min_text_constraint'],
      [{ password: 'x'.repeat(72), passwordConfirm: 'x'.repeat(72) }, 'password', 'validation_max_text_constraint'],
      [{ passwordConfirm: 'other' }, 'passwordConfirm', 'validation_values_mismatch'],
      [{ email: 'x' }, 'email', 'validation_is_email'], [{ email: ann.email }, 'email', 'validation_not_unique'],
      [{ verified: true }, 'verified', 'validation_values_mismatch'],
    ];
    for (const [more, field, code] of table) {
      const { data } = await refused(client().collection(people.name).create({ ...base, ...more }), 400, 'Failed to create record.');
      assert.equal(data[field]?.code, code, JSON.stringify(more));
    }
  });

  test('a user changes their password with the old one, and not email or verified', async (t) => {
    const people = await make(t, { type: 'auth' });
    const ann = await user(people.name);
    const update = (body) => ann.collection(people.name).update(ann.id, body);
    const next = { password: 'a new password', passwordConfirm: 'a new password' };
    assert.equal((await refused(update(next), 400)).data.oldPassword.code, 'validation_required');
    assert.equal((await refused(update({ ...next, oldPassword: 'wrong' }), 400)).data.oldPassword.code, 'validation_invalid_old_password');
    assert.equal((await refused(update({ email: 'x@example.com' }), 400)).data.email.code, 'validation_values_mismatch');
    assert.equal((await refused(update({ verified: true }), 400)).data.verified.code, 'validation_values_mismatch');
    const admin = (await superuser()).collection(people.name);
    assert.equal((await admin.update(ann.id, { verified: true })).verified, true);
    const old = ann.authStore.token;
    await update({ ...next, oldPassword: secret });
    const stale = client();
    stale.authStore.save(old, null);
    await refused(stale.collection(people.name).authRefresh(), 401);
    await refused(client().collection(people.name).authWithPassword(ann.email, secret), 400);
    await client().collection(people.name).authWithPassword(ann.email, next.password);
  });

  test('impersonation lends a token that is not renewed', async (t) => {
    const people = await make(t, { type: 'auth' });
    const ann = await user(people.name);
    const admin = await superuser();
    const lent = await admin.collection(people.name).impersonate(ann.id, 60);
    assert.equal(lent.authStore.record.id, ann.id);
    const token = lent.authStore.token;
    assert.equal((await lent.collection(people.name).authRefresh()).token, token);
    const claims = JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString());
    assert.ok(Math.abs(claims.exp - Date.now() / 1000 - 60) < 10);
    await refused(admin.collection(people.name).impersonate('nothing', 60), 404);
  });

  test('auth and manage rules', async (t) => {
    const people = await make(t, { type: 'auth', authRule: 'verified = true', manageRule: '@request.auth.verified = true' });
    const admin = (await superuser()).collection(people.name);
    const email = `${unique('u')}@example.com`;
    const body = { email, password: secret, passwordConfirm: secret };
    const made = await client().collection(people.name).create(body);
    await refused(client().collection(people.name).authWithPassword(email, secret), 403);
    await admin.update(made.id, { verified: true });
    const manager = client();
    await manager.collection(people.name).authWithPassword(email, secret);
    const other = await manager.collection(people.name).create({ ...body, email: `${unique('u')}@example.com`, verified: true });
    assert.equal(other.verified, true);
    const changed = await manager.collection(people.name).update(other.id, { password: 'set by a manager', passwordConfirm: 'set by a manager' });
    assert.equal(changed.id, other.id);
    await client().collection(people.name).authWithPassword(other.email, 'set by a manager');
  });

  test('verification by mail', async (t) => {
    const people = await make(t, { type: 'auth' });
    const mail = await mailbox(t);
    const ann = await user(people.name);
    assert.equal(await client().collection(people.name).requestVerification(ann.email), true);
    const token = await mail.find(ann.email, /confirm-verification\/([\w.-]+)/);
    assert.equal(await client().collection(people.name).confirmVerification(token), true);
    assert.equal((await ann.collection(people.name).authRefresh()).record.verified, true);
    assert.equal(await client().collection(people.name).requestVerification('nobody@example.com'), true);
    await refused(client().collection(people.name).confirmVerification('garbage'), 400, invalid);
    await refused(client().collection('_superusers').requestVerification('admin@example.com'), 400);
  });

  test('a password reset by mail', async (t) => {
    const people = await make(t, { type: 'auth' });
    const mail = await mailbox(t);
    const ann = await user(people.name);
    assert.equal(await client().collection(people.name).requestPasswordReset(ann.email), true);
    const token = await mail.find(ann.email, /confirm-password-reset\/([\w.-]+)/);
    const next = 'set by the reset';
    const mismatch = await refused(client().collection(people.name).confirmPasswordReset(token, next, 'other'), 400, invalid);
    assert.equal(mismatch.data.passwordConfirm.code, 'validation_values_mismatch');
    assert.equal(await client().collection(people.name).confirmPasswordReset(token, next, next), true);
    assert.equal((await client().collection(people.name).authWithPassword(ann.email, next)).record.verified, true);
    await refused(client().collection(people.name).confirmPasswordReset(token, next, next), 400, invalid);
    await refused(ann.collection(people.name).authRefresh(), 401);
  });

  test('an email change by mail', async (t) => {
    const people = await make(t, { type: 'auth' });
    const mail = await mailbox(t);
    const ann = await user(people.name);
    const next = `${unique('u')}@example.com`;
    assert.equal(await ann.collection(people.name).requestEmailChange(next), true);
    const token = await mail.find(next, /confirm-email-change\/([\w.-]+)/);
    await refused(client().collection(people.name).confirmEmailChange(token, 'wrong password'), 400, invalid);
    assert.equal(await client().collection(people.name).confirmEmailChange(token, secret), true);
    const { record } = await client().collection(people.name).authWithPassword(next, secret);
    assert.deepEqual([record.id, record.email, record.verified], [ann.id, next, true]);
    await refused(client().collection(people.name).requestEmailChange(next), 401);
  });

  test('one-time passwords by mail', async (t) => {
    const people = await make(t, { type: 'auth', otp: { enabled: true, duration: 180, length: 8 } });
    const mail = await mailbox(t);
    const ann = await user(people.name);
    const { otpId } = await client().collection(people.name).requestOTP(ann.email);
    const code = await mail.find(ann.email, /<strong>(\d{8})<\/strong>/);
    await refused(client().collection(people.name).authWithOTP(otpId, '00000000'), 400, 'Invalid or expired OTP.');
    const { record, token } = await client().collection(people.name).authWithOTP(otpId, code);
    assert.equal(record.id, ann.id);
    assert.ok(token);
    await refused(client().collection(people.name).authWithOTP(otpId, code), 400, 'Invalid or expired OTP.');
    assert.match((await client().collection(people.name).requestOTP('nobody@example.com')).otpId, /^[a-z0-9]{15}$/);
  });

  test('tries of one-time passwords are limited', async (t) => {
    const people = await make(t, { type: 'auth', otp: { enabled: true, duration: 180, length: 8 } });
    const mail = await mailbox(t);
    const ann = await user(people.name);
    const { otpId } = await client().collection(people.name).requestOTP(ann.email);
    const code = await mail.find(ann.email, /<strong>(\d{8})<\/strong>/);
    const wrongCode = code === '00000000' ? '11111111' : '00000000';
    const statuses = [];
    for (let n = 0; n < 7; n++) {
      await client().collection(people.name).authWithOTP(otpId, wrongCode).catch((error) => statuses.push(error.status));
    }
    assert.deepEqual(statuses.slice(0, 5), [400, 400, 400, 400, 400]);
    assert.deepEqual(statuses.slice(5), [429, 429]);
    await refused(client().collection(people.name).authWithOTP(otpId, code), 429);
  });

  test('a second factor', async (t) => {
    const people = await make(t, {
      type: 'auth', otp: { enabled: true, duration: 180, length: 8 }, mfa: { enabled: true, duration: 600, rule: '' },
    });
    const mail = await mailbox(t);
    const email = `${unique('u')}@example.com`;
    const made = await (await superuser()).collection(people.name).create({ email, password: secret, passwordConfirm: secret });
    const first = await refused(client().collection(people.name).authWithPassword(email, secret), 401);
    assert.match(first.mfaId, /^[a-z0-9]{15}$/);
    const { otpId } = await client().collection(people.name).requestOTP(email);
    const code = await mail.find(email, /<strong>(\d{8})<\/strong>/);
    const { record } = await client().collection(people.name).authWithOTP(otpId, code, { mfaId: first.mfaId });
    assert.equal(record.id, made.id);
  });

  test('tokens with and without a scheme, and broken ones', async (t) => {
    const people = await make(t, { type: 'auth' });
    const ann = await user(people.name);
    const refresh = (Authorization) => raw(`/api/collections/${people.name}/auth-refresh`, { method: 'POST', headers: { Authorization } });
    for (const scheme of ['', 'Bearer ', 'bearer ']) assert.equal((await refresh(scheme + ann.authStore.token)).status, 200, scheme);
    for (const token of ['garbage', `${ann.authStore.token}x`, 'Basic abc']) assert.equal((await refresh(token)).status, 401, token);
    const other = await make(t, { type: 'auth' });
    const elsewhere = await raw(`/api/collections/${other.name}/auth-refresh`, { method: 'POST', token: ann.authStore.token });
    assert.equal(elsewhere.status, 403);
  });
});
