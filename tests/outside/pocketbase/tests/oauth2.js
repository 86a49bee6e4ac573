import { createServer } from 'node:http';
import { suite, test } from 'node:test';
import { assert, client, later, make, raw, refused, secret, superuser, unique } from '../support.js';

/** An OpenID provider of the test's own, and an auth collection that uses it. `people` maps codes to users. */
async function provider(t, people) {
  const exchanged = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const answer = (status, json) => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(json));
    };
    if (request.url === '/token') {
      const form = new URLSearchParams(body);
      exchanged.push(form);
      if (!people[form.get('code')]) return answer(400, { error: 'invalid_grant' });
      return answer(200, { access_token: form.get('code'), token_type: 'Bearer', expires_in: 3600 });
    }
    const person = people[(request.headers.authorization ?? '').replace('Bearer ', '')];
    return person ? answer(200, person) : answer(401, {});
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  later(t, () => server.close());
  const base = `http://127.0.0.1:${server.address().port}`;
  const collection = await make(t, {
    type: 'auth', fields: [{ name: 'name', type: 'text' }],
    oauth2: {
      enabled: true, mappedFields: { name: 'name' },
      providers: [{
        name: 'oidc', displayName: 'Example', clientId: 'id', clientSecret: 'not-shown', authURL: `${base}/auth`, tokenURL: `${base}/token`,
        userInfoURL: `${base}/me`, pkce: true,
      }],
    },
  });
  return { collection, exchanged };
}

const redirect = 'http://127.0.0.1:1/callback';

suite('oauth2', () => {
  test('providers are listed without their secrets', async (t) => {
    const { collection } = await provider(t, {});
    const methods = await client().collection(collection.name).listAuthMethods();
    assert.equal(methods.oauth2.enabled, true);
    const [entry] = methods.oauth2.providers;
    assert.deepEqual([entry.name, entry.displayName, entry.codeChallengeMethod], ['oidc', 'Example', 'S256']);
    assert.ok(entry.state && entry.codeVerifier && entry.codeChallenge);
    const url = new URL(entry.authURL);
    assert.equal(url.searchParams.get('state'), entry.state);
    assert.equal(url.searchParams.get('code_challenge'), entry.codeChallenge);
    assert.ok(entry.authURL.endsWith('&redirect_uri='));
    assert.ok(!JSON.stringify(await (await superuser()).collections.getOne(collection.id)).includes('not-shown'));
  });

  test('a code makes a user, and finds them again', async (t) => {
    const email = `${unique('u')}@example.com`;
    const { collection, exchanged } = await provider(t, { c1: { sub: 'p-1', email, email_verified: true, name: 'Ann' } });
    const log = () => client().collection(collection.name).authWithOAuth2Code('oidc', 'c1', 'verifier', redirect, { name: 'given' });
    const first = await log();
    assert.deepEqual([first.meta.isNew, first.record.email, first.record.verified, first.record.name], [true, email, true, 'given']);
    assert.deepEqual([first.meta.id, first.meta.email, first.meta.name], ['p-1', email, 'Ann']);
    assert.deepEqual([exchanged[0].get('code_verifier'), exchanged[0].get('redirect_uri')], ['verifier', redirect]);
    const second = await log();
    assert.deepEqual([second.meta.isNew, second.record.id], [false, first.record.id]);
    await refused(client().collection(collection.name).authWithOAuth2Code('oidc', 'bad', 'verifier', redirect), 400, 'Failed to fetch OAuth2 token.');
    await refused(client().collection(collection.name).authWithOAuth2Code('nothing', 'c1', 'v', redirect), 400);
  });

  test('a known address is linked, and an unverified user loses their password', async (t) => {
    const email = `${unique('u')}@example.com`;
    const { collection } = await provider(t, { c1: { sub: 'p-1', email, email_verified: true, name: 'Ann' } });
    const admin = await superuser();
    const made = await admin.collection(collection.name).create({ email, password: secret, passwordConfirm: secret });
    const { record, meta } = await client().collection(collection.name).authWithOAuth2Code('oidc', 'c1', 'verifier', redirect);
    assert.deepEqual([record.id, record.verified, meta.isNew], [made.id, true, false]);
    await refused(client().collection(collection.name).authWithPassword(email, secret), 400);
    const own = client();
    await own.collection(collection.name).authWithOAuth2Code('oidc', 'c1', 'verifier', redirect);
    const links = await own.collection(collection.name).listExternalAuths(made.id);
    assert.deepEqual(links.map((link) => [link.provider, link.providerId]), [['oidc', 'p-1']]);
    assert.equal(await own.collection(collection.name).unlinkExternalAuth(made.id, 'oidc'), true);
  });

  test('the redirect reaches the client that waits', async (t) => {
    const { collection } = await provider(t, { c1: { sub: 'p-1', email: `${unique('u')}@example.com`, email_verified: true, name: 'Ann' } });
    const pb = client();
    const { record, token } = await pb.collection(collection.name).authWithOAuth2({
      provider: 'oidc',
      urlCallback: async (url) => {
        const state = new URL(url).searchParams.get('state');
        assert.match(state, /^[A-Za-z0-9]{40}$/); // The id of a connection of the SDK's own.
        assert.match(new URL(url).searchParams.get('redirect_uri'), /\/api\/oauth2-redirect$/);
        const answer = await raw(`/api/oauth2-redirect?state=${state}&code=c1`, { redirect: 'manual' });
        assert.equal(answer.status, 307);
      },
    });
    assert.ok(token);
    assert.equal(pb.authStore.record.id, record.id);
    const lost = await raw('/api/oauth2-redirect?state=nobody&code=c1', { redirect: 'manual' });
    assert.deepEqual([lost.status, /failure/.test(lost.headers.get('location'))], [307, true]);
  });
});
