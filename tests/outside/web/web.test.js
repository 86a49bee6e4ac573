// The web page in headless Chromium. `web.sh` starts this with the program, the ports and a folder.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const { TIDEGATE_BINARY: binary, TIDEGATE_DATA: data, TIDEGATE_PORT, TIDEGATE_SHOTS: shots, TIDEGATE_CHROMIUM: executablePath } = process.env;
const [open_port, guarded_port] = [Number(TIDEGATE_PORT), Number(TIDEGATE_PORT) + 1];
const url = `http://127.0.0.1:${open_port}`;
const guarded_url = `http://127.0.0.1:${guarded_port}`;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const PATIENCE = 30_000;
const VIEWS = ['live', 'dead-letters', 'routes', 'records', 'streams', 'conversations', 'files', 'account'];

const settings = { LOG_FORMAT: 'json', JOURNAL_MIN_FREE: '0', JOURNAL_MAX_BYTES: '67108864' };
const OPEN = { ...settings, PORT: String(open_port), DATA_DIR: `${data}/open`, MODULES: 'all', FAULTS: 'on' };
const { PATH, HOME } = process.env;
const program = (variables, ...words) => execFileSync(binary, words, { env: { PATH, HOME, ...variables }, encoding: 'utf8' }).trim();

/** Starts a service; resolves once it accepts events. */
async function start(variables, port, log) {
  const output = openSync(log, 'a');
  const service = spawn(binary, [], { env: { PATH, HOME, ...variables }, stdio: ['ignore', output, output] });
  for (let tries = 0; tries < 600; tries += 1) {
    const answer = await fetch(`http://127.0.0.1:${port}/health/ready`).catch(() => null);
    if (answer?.ok) return service;
    assert.equal(service.exitCode, null, `the service ended: ${readFileSync(log, 'utf8').slice(-2000)}`);
    await sleep(100);
  }
  throw new Error('the service does not start');
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function stop(service) {
  const ended = new Promise((resolve) => service.once('exit', resolve));
  service.kill('SIGTERM');
  await ended;
}

let browser, service, guarded, database;
const problems = [];

/** A page whose errors and violations of its policy are kept; any of them fails the test. */
async function visit(path, { base = url, width = 1280, theme = 'light', context: given } = {}) {
  const context = given ?? (await browser.newContext({ viewport: { width, height: 900 }, colorScheme: theme, reducedMotion: 'reduce' }));
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on('pageerror', (error) => problems.push(`${path}: ${error.stack}`));
  page.on('console', (message) => {
    if (/Content Security Policy|Trusted/i.test(message.text())) problems.push(`${path}: ${message.text()}`);
  });
  await page.goto(base + path);
  return page;
}

const api = async (method, path, body, { base = url, headers = {} } = {}) => {
  const is_text = typeof body === 'string';
  const answer = await fetch(base + path, { method, headers: { ...(body === undefined ? {} : { 'content-type': is_text ? 'application/x-ndjson' : 'application/json' }), ...headers }, body: body === undefined ? undefined : is_text ? body : JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${await answer.clone().text()}`);
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
};
const sql = (text) => execFileSync('psql', [database, '-XqAt', '-v', 'ON_ERROR_STOP=1', '-c', text], { encoding: 'utf8' }).trim();
const events = (count, make = (n) => ({ event: 'click', n })) => api('POST', '/api/v1/events/batch?ack=committed', Array.from({ length: count }, (_, n) => JSON.stringify(make(n))).join('\n'));

/** A second node on the database of the first one, which requires tokens. */
const GUARDED = () => ({ ...settings, PORT: String(guarded_port), DATA_DIR: `${data}/guarded`, DATABASE_URL: database, MODULES: 'all', AUTH: 'required', JWT_SECRET: 'a secret of more than thirty-two bytes', REGISTRATION: 'on', RATE_LOGINS: '0' });
const start_guarded = async () => { guarded ??= await start(GUARDED(), guarded_port, `${data}/guarded.log`); };

/** Confirms a question. */
const confirm = (page, label) => page.locator('dialog button.primary', { hasText: label }).click();

before(async () => {
  mkdirSync(shots, { recursive: true });
  service = await start(OPEN, open_port, `${data}/open.log`);
  database = program(OPEN, 'url');
  browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
});

after(async () => {
  await browser?.close();
  for (const one of [guarded, service]) if (one) await stop(one);
  assert.deepEqual(problems, [], 'errors of the page');
});

test('both documents and all their files are small, and are painted at once', async () => {
  const seen = new Map();
  const context = await browser.newContext();
  context.on('response', async (response) => {
    const body = await response.body().catch(() => Buffer.alloc(0));
    if (/\/ui\/assets\/|\/$|\/stress$/.test(new URL(response.url()).pathname)) seen.set(response.url(), body.length);
  });
  const page = await context.newPage();
  for (const view of VIEWS) {
    await page.goto(`${url}/#/${view}`);
    await page.reload();
    await page.waitForLoadState('load');
    await sleep(300);
  }
  await page.goto(`${url}/stress`);
  await page.waitForLoadState('load');
  await sleep(300);
  const bytes = [...seen.values()].reduce((sum, one) => sum + one, 0);
  assert.ok(seen.size > 15 && bytes < 250_000, `${seen.size} files, ${bytes} bytes`);
  // Other programs of the machine make a paint slower and never faster, so the fastest one counts, and that of an empty page beside it.
  const empty = createServer((_, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><title>x</title><h1>x</h1>'));
  await new Promise((resolve) => empty.listen(0, '127.0.0.1', resolve));
  const paint = async (own, address) => {
    await own.goto('about:blank');
    await own.goto(address);
    await own.waitForFunction(() => performance.getEntriesByName('first-contentful-paint').length > 0);
    return own.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime);
  };
  const paints = { empty: [], first: [], again: [] };
  const best = (all) => Math.min(...all);
  // Where even an empty page takes long, the machine is busy: then the page may take three times as long as that one.
  const bound = () => Math.max(100, 3 * best(paints.empty));
  const is_at_once = () => best([...paints.first, ...paints.again]) < bound();
  for (let at = 0; at < 30 && (at < 5 || !is_at_once()); at += 1) {
    const fresh = await (await browser.newContext()).newPage();
    paints.empty.push(await paint(fresh, `http://127.0.0.1:${empty.address().port}/`));
    paints.first.push(await paint(fresh, `${url}/`));
    paints.again.push(await paint(fresh, `${url}/`));
    await fresh.context().close();
  }
  // A page that waits for a file is not painted at once.
  const slow = await (await browser.newContext()).newPage();
  await slow.route('**/app.css', async (route) => {
    await sleep(Math.max(400, 4 * best(paints.empty)));
    await route.continue();
  });
  assert.ok((await paint(slow, `${url}/`)) > bound(), 'a slow page is not noticed');
  await slow.context().close();
  empty.close();
  console.log(`# ${seen.size} files, ${bytes} bytes; first paint in ms: ${best(paints.first).toFixed(0)}, with a cache ${best(paints.again).toFixed(0)}, of an empty page ${best(paints.empty).toFixed(0)}`);
  assert.ok(is_at_once(), JSON.stringify(paints));
  await context.close();
});

test('the charts move under load, and the ledger says so', async () => {
  const page = await visit('/#/live');
  await page.waitForFunction(() => Number(document.getElementById('main').dataset.snapshots) >= 2);
  const pictures = () => page.evaluate(() => [...document.querySelectorAll('.chart canvas')].map((canvas) => canvas.toDataURL()));
  const before_load = await pictures();
  assert.equal(before_load.length, 4);
  let is_loading = true;
  const load = (async () => { while (is_loading) await events(50); })();
  const value = (label) => page.locator('.chart .key', { hasText: label }).first().locator('b');
  await page.waitForFunction(() => [...document.querySelectorAll('.chart .key')].some((key) => key.textContent.startsWith('accepted') && Number(key.querySelector('b').textContent.replace(/\D/g, '')) > 0));
  await page.waitForFunction(() => /^All [\d,]+ accepted events are accounted for\.$/.test(document.querySelector('.ledger').textContent));
  await page.waitForFunction(() => [...document.querySelectorAll('.chart .key')].some((key) => key.textContent.startsWith('p99') && / m?s$/.test(key.querySelector('b').textContent)));
  const during = await pictures();
  during.forEach((picture, at) => assert.notEqual(picture, before_load[at], `chart ${at}`));
  const seen = new Set();
  for (let at = 0; at < 4; at += 1) {
    seen.add((await pictures())[0]);
    await sleep(1000);
  }
  assert.ok(seen.size >= 3, 'they move every second');
  is_loading = false;
  await load;
  assert.match(await value('committed').textContent(), /\d/);
  assert.equal(await page.locator('.stage').count(), 4);
  assert.ok((await page.locator('.tasks li').count()) > 10);
  await page.screenshot({ path: `${shots}/live-load.png`, fullPage: true });
  await page.context().close();
});

test('a page that is opened later begins with the last minutes, and shows what lanes and tasks do', async () => {
  await events(50);
  await sleep(2_500);
  const page = await visit('/#/live');
  await page.waitForFunction(() => Number(document.getElementById('main').dataset.snapshots) >= 1);
  // The lines of the first snapshot reach back: a page that begins empty has a width of nothing.
  const drawn = await page.evaluate(() => {
    const canvas = document.querySelector('.chart canvas');
    const { width, height } = canvas;
    const pixels = canvas.getContext('2d').getImageData(0, 0, width, Math.floor(height * 0.8)).data;
    const columns = new Set();
    // The ink of the lines: neither grey as the axes and grids, nor transparent.
    for (let at = 0; at < pixels.length; at += 4) {
      const [red, green, blue, alpha] = pixels.slice(at, at + 4);
      if (alpha > 120 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60) columns.add((at / 4) % width);
    }
    return columns.size;
  });
  assert.ok(drawn > 2, `${drawn} columns of the first chart have a line`);
  await page.locator('.tasks li', { hasText: /lane 0.*(waits for events|writes a batch).*batch/ }).waitFor();
  await page.locator('.tasks li', { hasText: /figures.*\d+ steps · last [\d.]+ ms/ }).waitFor();
  await page.context().close();
});

test('a dead letter is corrected, redriven and stored; another one is discarded', async () => {
  sql("alter table requests drop constraint if exists no_evil, add constraint no_evil check (payload->>'evil' is null) not valid");
  for (const n of [1, 2, 3]) await api('POST', '/api/v1/events', { evil: n, keep: 12345678901234567890n.toString(), n });
  const page = await visit('/#/dead-letters');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length > 0).catch(() => {});
  for (let tries = 0; tries < 50 && (await page.locator('tbody tr').count()) < 3; tries += 1) {
    await sleep(200);
    await page.reload();
    await page.waitForSelector('tbody', { state: 'attached' });
    await sleep(200);
  }
  assert.equal(await page.locator('tbody tr').count(), 3);
  await page.locator('tbody tr').first().locator('button.link').click();
  const editor = page.locator('textarea[aria-label=Payload]');
  await editor.waitFor();
  assert.match(await page.locator('.panel pre').textContent(), /23514/);
  const own = JSON.parse(await editor.inputValue());
  // A text that is no JSON is not sent.
  await editor.fill('{');
  await page.locator('.panel button', { hasText: 'Save' }).click();
  await page.locator('.panel .error', { hasText: 'no JSON' }).waitFor();
  await editor.fill(JSON.stringify({ n: own.n, corrected: true }));
  await page.screenshot({ path: `${shots}/dead-letter.png`, fullPage: true });
  await page.locator('.panel button', { hasText: 'Redrive' }).click();
  await confirm(page, 'Redrive');
  await page.locator('#say', { hasText: '1 event stored' }).waitFor();
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 2);
  assert.equal(sql(`select payload->>'corrected' from requests where payload->>'n' = '${own.n}' and payload ? 'corrected'`), 'true');

  // One that somebody else corrected meanwhile is not overwritten.
  await page.locator('tbody tr').first().locator('button.link').click();
  await page.waitForFunction((n) => document.querySelector('textarea[aria-label=Payload]') && JSON.parse(document.querySelector('textarea[aria-label=Payload]').value).n !== n, own.n);
  const [letter] = await api('GET', '/api/v1/dead-letters');
  await api('PATCH', `/api/v1/dead-letters/${letter.id}`, { payload: { other: 1, evil: 1 } });
  await editor.fill('{"mine": 1}');
  await page.locator('.panel button', { hasText: 'Save' }).click();
  await page.locator('.panel .error', { hasText: 'Somebody else' }).waitFor();

  // Nothing happens without a confirmation.
  await page.locator('tbody input[type=checkbox]').first().check();
  await page.locator('button', { hasText: 'Discard 1' }).click();
  await page.locator('dialog button', { hasText: 'Cancel' }).click();
  assert.equal((await api('GET', '/api/v1/dead-letters')).length, 2);
  await page.locator('button', { hasText: 'Discard 1' }).click();
  await confirm(page, 'Discard');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 1);
  assert.equal((await api('GET', '/api/v1/dead-letters')).length, 1);

  // All that fit, once the cause is removed.
  sql('alter table requests drop constraint no_evil');
  await page.locator('button', { hasText: 'Redrive all' }).click();
  await confirm(page, 'Redrive');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 0);
  assert.deepEqual(await api('GET', '/api/v1/dead-letters'), []);
  await page.context().close();
});

test('a route is checked before it is enabled, and its errors are redriven', async () => {
  sql('create schema if not exists app; create table app.signups (user_id text primary key, n bigint not null)');
  await events(3, (n) => ({ event: 'signup', user: `u${n}`, n }));
  const page = await visit('/#/routes');
  const field = (label) => page.getByLabel(label, { exact: true });
  await field('Into').fill('app.signups');
  await field('Events').fill("payload->>'event' = 'signup'");
  await page.locator('button', { hasText: 'Suggest a table' }).click();
  await page.locator('pre', { hasText: 'create table' }).waitFor();
  await field('SQL').first().fill("select payload->>'user' as user_id, (payload->>'n')::bigint as n from batch where payload->>'event' = 'signup'");
  await field('Name').fill('signups');
  await field('Key').fill('user_id');
  const enable = page.locator('button', { hasText: /^Enable$/ });
  assert.ok(await enable.isDisabled(), 'it was not checked');
  await page.locator('button', { hasText: /^Check$/ }).click();
  await page.locator('p', { hasText: /rows? would be written/ }).waitFor();
  await page.waitForFunction(() => ![...document.querySelectorAll('button')].find((button) => button.textContent === 'Enable').disabled);
  await field('On conflict').fill('do nothing');
  assert.ok(await enable.isDisabled(), 'another definition was not checked');
  await field('On conflict').fill('');
  await enable.click();
  await page.locator('h2', { hasText: 'signups' }).waitFor();
  await events(2, (n) => ({ event: 'signup', user: `w${n}` }));
  await events(1, () => ({ event: 'signup', user: 'w9', n: 9 }));
  assert.equal(sql("select count(*) from app.signups where user_id like 'w%'"), '1');
  await page.screenshot({ path: `${shots}/route.png`, fullPage: true });

  await page.goto(`${url}/#/dead-letters`);
  await page.getByLabel('Reason').selectOption('route');
  await page.getByLabel('SQLSTATE').fill('23502');
  await page.getByLabel('SQLSTATE').press('Enter');
  await page.getByLabel('SQLSTATE').blur();
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 2);
  await page.getByLabel('SQLSTATE').fill('23505');
  await page.getByLabel('SQLSTATE').blur();
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 0);
  await page.getByLabel('SQLSTATE').fill('23502');
  await page.getByLabel('SQLSTATE').blur();
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 2);
  sql('alter table app.signups alter n drop not null');
  await page.getByLabel('Select all that are shown').check();
  await page.locator('button', { hasText: 'Redrive 2' }).click();
  await confirm(page, 'Redrive');
  await page.locator('#say', { hasText: '2 events stored' }).waitFor();
  assert.equal(sql("select count(*) from app.signups where user_id like 'w%'"), '3');
  await page.context().close();
});

test('the charts of the stress page are there before the first run, and every run ends green', async () => {
  const page = await visit('/stress');
  const status = page.locator('#run');
  await page.waitForFunction(() => document.getElementById('run')?.dataset.state === 'idle');
  const drawn = await page.evaluate(() => [...document.querySelectorAll('.charts canvas')].map((canvas) => {
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.some((value) => value !== 0);
  }));
  assert.deepEqual(drawn, [true, true], 'axes are drawn');
  assert.ok((await page.locator('table', { hasText: 'Nothing ran yet.' }).count()) === 1);
  const run = async (tab, button, fill = {}) => {
    await page.locator(`#tab-${tab}`).click();
    for (const [label, value] of Object.entries(fill)) await page.getByLabel(label, { exact: true }).and(page.locator(':visible')).first().fill(String(value));
    await page.locator(`#panel-${tab} button`, { hasText: button }).first().click();
    await page.waitForFunction(() => ['green', 'red'].includes(document.getElementById('run').dataset.state), null, { timeout: 90_000 });
    assert.equal(await status.getAttribute('data-state'), 'green', `${tab}: ${await page.locator('[aria-label=Results]').textContent()}`);
    await page.screenshot({ path: `${shots}/stress-${tab}.png`, fullPage: true });
    await page.evaluate(() => { document.getElementById('run').dataset.state = 'idle'; });
  };
  await run('records', 'Run the loop', { Seconds: 2, Workers: 3 });
  const operations = await page.locator('tbody tr td:first-child').allTextContents();
  for (const name of ['create', 'get', 'patch', 'put', 'list', 'delete']) assert.ok(operations.includes(name), `${name}: ${operations}`);
  await run('events', 'Send events', { Seconds: 1 });
  await run('large', 'Send large payloads', { MiB: 1, Payloads: 2 });
  await run('stream', 'Open the stream', { 'Rate a second': 200, Messages: 300, 'Event names': 'tick, tock' });
  assert.match(await page.locator('#panel-stream').textContent(), /300received0gaps|received300|300/);
  await run('errors', 'Run all', { 'Delay, ms': 100 });
  await run('faults', 'Try every fault');
  await page.locator('#tab-config').click();
  await page.getByLabel('sse rate').fill('25');
  await page.locator('#panel-config button', { hasText: 'Change' }).click();
  await page.locator('#say', { hasText: 'configuration is changed' }).waitFor();
  assert.equal((await api('GET', '/api/stress/config')).sse_rate, 25);

  // One request of each kind, by the keyboard too.
  await page.locator('#tab-config').press('ArrowRight');
  await page.waitForFunction(() => document.activeElement.id === 'tab-records');
  const send = async (operation) => {
    await page.getByLabel('Operation').selectOption(operation);
    await page.locator('#send').click();
    await page.waitForFunction(() => document.querySelector('#send').getAttribute('aria-busy') === null);
    return page.locator('#panel-records p[role=status]').textContent();
  };
  assert.match(await send('POST'), /^201/);
  assert.match(await send('GET'), /^200.*version/);
  assert.match(await send('PATCH'), /^200/);
  assert.match(await send('PUT'), /^200/);
  await page.getByLabel('Filter', { exact: true }).fill('name = "a"');
  assert.match(await send('LIST'), /^200.*1 match in all/);
  assert.match(await send('DELETE'), /^204/);
  assert.match(await send('GET'), /^404/);
  await page.context().close();
});

test('records, streams and conversations are followed live', async () => {
  const page = await visit('/#/records');
  await api('POST', '/api/stress/records/boats', { name: 'one' });
  await api('PUT', '/v1/stream/chat/1');
  await page.goto(`${url}/#/records/boats`);
  await page.locator('td', { hasText: 'one' }).waitFor();
  await page.locator('button', { hasText: 'Follow live' }).click();
  await sleep(500);
  await api('POST', '/api/stress/records/boats', { name: 'two <b>bold</b>' });
  await page.locator('.log li', { hasText: 'two <b>bold</b>' }).waitFor();
  await page.locator('td', { hasText: 'two <b>bold</b>' }).waitFor();

  await api('POST', '/api/stress/records/boats', { name: 'three' });
  await page.locator('td', { hasText: 'three' }).waitFor();
  await page.goto(`${url}/#/streams`);
  await page.reload();
  await api('DELETE', '/v1/stream/chat/1');
  await api('PUT', '/v1/stream/chat/2', []);
  await page.reload();
  await page.locator('.names a', { hasText: 'chat/2' }).click();
  await page.locator('button', { hasText: 'Follow live' }).click();
  await page.locator('p[role=status]', { hasText: 'following' }).waitFor();
  await api('POST', '/v1/stream/chat/2', [{ text: 'hello' }, { text: 'world' }]);
  await page.locator('.log pre', { hasText: 'world' }).waitFor();

  const { id } = await api('POST', '/api/conversations', { title: 'Ferries' });
  await page.goto(`${url}/#/conversations/${id}`);
  await page.locator('.badge', { hasText: 'live' }).waitFor();
  const message = await api('POST', `/api/conversations/${id}/messages`, { role: 'assistant', content: 'At ', done: false });
  await page.locator('.message', { hasText: 'At' }).waitFor();
  await api('POST', `/api/conversations/${id}/messages/${message.id}/append`, { content: '14:20', at: 3, done: true });
  await page.locator('.message', { hasText: 'At 14:20' }).waitFor();
  await page.context().close();
});

test('a file is uploaded, imported with a rejected line, and deleted', async () => {
  const page = await visit('/#/files');
  await page.locator('input[type=file]').setInputFiles({ name: 'lines.jsonl', mimeType: 'application/x-ndjson', buffer: Buffer.from('{"a":1}\n{bad\n{"a":2}\n') });
  await page.locator('button', { hasText: 'Upload' }).click();
  await page.locator('td', { hasText: 'lines.jsonl' }).waitFor();
  await page.locator('button.link', { hasText: 'Import' }).click();
  await page.locator('button', { hasText: 'Import the lines' }).click();
  await page.locator('p[role=status]', { hasText: /3 lines, 2 stored, 1 rejected/ }).waitFor();
  await page.locator('td', { hasText: 'not JSON' }).waitFor();
  await page.locator('button.link', { hasText: 'Delete' }).click();
  await confirm(page, 'Delete');
  await page.locator('.empty', { hasText: 'No file yet' }).waitFor();
  await page.context().close();
});

test('the page comes back after a restart', async () => {
  const page = await visit('/#/live');
  const snapshots = () => page.evaluate(() => Number(document.getElementById('main').dataset.snapshots ?? 0));
  await page.waitForFunction(() => Number(document.getElementById('main').dataset.snapshots) >= 2);
  const killed = new Promise((resolve) => service.once('exit', resolve));
  service.kill('SIGKILL');
  await killed;
  await page.locator('.state', { hasText: 'Connecting again' }).waitFor();
  const seen = await snapshots();
  service = await start(OPEN, open_port, `${data}/open.log`);
  await page.waitForFunction((old) => Number(document.getElementById('main').dataset.snapshots) >= old + 3, seen);
  await page.locator('.state', { hasText: 'Serving' }).waitFor();
  await page.context().close();
});

test('with sign-in nobody sees the data of another, and the cookie is hidden', async () => {
  await start_guarded();
  const of = { base: guarded_url };
  for (const email of ['ada@example.com', 'bob@example.com']) await api('POST', '/api/auth/register', { email, password: 'correct horse' }, of);
  const sign_in = async (email) => {
    const page = await visit('/', of);
    await page.locator('h1', { hasText: 'Sign in' }).waitFor();
    await page.getByLabel('Email').fill(email);
    await page.getByLabel('Password').fill('correct horse');
    await page.getByRole('button', { name: 'Sign in', exact: true }).click();
    await page.locator('.who', { hasText: email }).waitFor();
    return page;
  };
  const [ada, bob] = [await sign_in('ada@example.com'), await sign_in('bob@example.com')];
  const views = await ada.locator('#views a').allTextContents();
  assert.deepEqual(views, ['Conversations', 'Files', 'Account'], 'those of the permissions of a registered user');
  const { access_token: token } = await api('POST', '/api/auth/login', { email: 'ada@example.com', password: 'correct horse' }, of);
  const headers = { authorization: `Bearer ${token}` };
  const { id } = await api('POST', '/api/conversations', { title: 'Of Ada alone' }, { ...of, headers });
  await ada.goto(`${guarded_url}/#/conversations/${id}`);
  await ada.locator('h2', { hasText: 'Of Ada alone' }).waitFor();
  await api('POST', `/api/conversations/${id}/messages`, { role: 'user', content: 'a secret' }, { ...of, headers });
  await ada.locator('.message', { hasText: 'a secret' }).waitFor();
  await bob.goto(`${guarded_url}/#/conversations/${id}`);
  await bob.locator('.error', { hasText: 'no such conversation' }).waitFor();
  await bob.locator('.names', { hasText: 'No conversation yet' }).waitFor();
  assert.ok(!(await bob.content()).includes('Of Ada'));

  const cookies = await ada.context().cookies(`${guarded_url}/ui/session`);
  assert.deepEqual(cookies.map(({ name, httpOnly, sameSite, path }) => [name, httpOnly, sameSite, path]).sort(), [['tidegate_refresh', true, 'Strict', '/ui/session'], ['tidegate_token', true, 'Strict', '/ui']]);
  assert.equal(await ada.evaluate(() => document.cookie), '');
  assert.deepEqual(await ada.evaluate(async () => Promise.all(['/api/auth/me', '/ui/api/auth/me'].map(async (path) => (await fetch(path)).status))), [401, 200]);

  // Once its access token has expired, the page gets the next one by itself.
  const { value: old, ...cookie } = cookies.find(({ name }) => name === 'tidegate_token');
  assert.ok(old.length > 40);
  await ada.context().addCookies([{ ...cookie, value: Buffer.from('an.expired.token').toString('base64url') }]);
  await ada.reload();
  await ada.locator('.who', { hasText: 'ada@example.com' }).waitFor();

  // Keys and sessions of one's own; an ended session is signed out.
  await ada.goto(`${guarded_url}/#/account`);
  await ada.getByLabel('Name').fill('buoys');
  await ada.getByLabel('Scopes').selectOption('files:read');
  await ada.locator('button', { hasText: 'Create' }).click();
  await ada.locator('pre', { hasText: /^tg_/ }).waitFor();
  await ada.locator('td', { hasText: 'buoys' }).waitFor();
  await ada.screenshot({ path: `${shots}/account.png`, fullPage: true });
  const table = ada.locator('table', { hasText: 'Sessions' });
  await table.locator('button', { hasText: 'End' }).first().waitFor();
  await bob.goto(`${guarded_url}/#/account`);
  await bob.locator('.empty', { hasText: 'No key yet' }).waitFor();
  assert.ok(!(await bob.content()).includes('buoys'));
  await bob.locator('main button', { hasText: 'Sign out' }).click();
  await bob.locator('h1', { hasText: 'Sign in' }).waitFor();
  assert.deepEqual(await bob.context().cookies(`${guarded_url}/ui/session`), []);
  await ada.context().close();
  await bob.context().close();

  // An operator by a key.
  const key = program(GUARDED(), 'keys', 'create', '--admin', '--name', 'page');
  const page = await visit('/', of);
  await page.locator('summary').click();
  await page.getByLabel('Token').fill(key);
  await page.locator('button', { hasText: 'Sign in with it' }).click();
  await page.locator('.ledger').waitFor();
  await page.waitForFunction(() => Number(document.getElementById('main').dataset.snapshots) >= 1);
  await page.context().close();
});

test('axe finds nothing serious, and nothing is cut off, on any view, in both themes, at 1280 and 390 pixels', async () => {
  await start_guarded();
  await events(20);
  await api('PUT', '/v1/stream/chat/3', [{ text: 'hello' }]);
  const { id } = await api('POST', '/api/conversations', { title: 'Ferries' });
  await api('POST', `/api/conversations/${id}/messages`, { role: 'user', content: 'When?' });
  sql("alter table requests drop constraint if exists no_evil, add constraint no_evil check (payload->>'evil' is null) not valid");
  await api('POST', '/api/v1/events', { evil: 1 });
  for (let tries = 0; tries < 100 && !(await api('GET', '/api/v1/dead-letters')).length; tries += 1) await sleep(100);
  const [letter] = await api('GET', '/api/v1/dead-letters');
  const paths = [...VIEWS.map((view) => [view, `/#/${view}`]), ['dead-letter-open', `/#/dead-letters/${letter.id}`], ['records-open', '/#/records/boats'], ['streams-open', '/#/streams/chat/3'], ['conversations-open', `/#/conversations/${id}`],
    ['routes-open', '/#/routes/signups'], ...['records', 'events', 'large', 'stream', 'errors', 'faults', 'config'].map((tab) => [`stress-${tab}`, `/stress#${tab}`])];
  const found = [];
  for (const theme of ['light', 'dark']) {
    for (const width of [1280, 390]) {
      const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: theme, reducedMotion: 'reduce' });
      for (const [name, path] of [...paths, ['sign-in', guarded_url]]) {
        const page = await visit(path, { context, base: name === 'sign-in' ? '' : url });
        await page.waitForFunction(() => document.querySelector('main h1') && document.title.includes('Tidegate'));
        await page.waitForLoadState('load');
        await sleep(name === 'live' ? 1300 : 200);
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
        for (const violation of violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))) {
          found.push(`${name} ${theme} ${width}: ${violation.id} ${violation.nodes.slice(0, 3).map((node) => `${node.html.slice(0, 120)} ${node.failureSummary.slice(0, 160)}`).join(' | ')}`);
        }
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        if (overflow > 0) found.push(`${name} ${theme} ${width}: ${overflow} px too wide`);
        await page.screenshot({ path: `${shots}/${name}-${theme}-${width}.png`, fullPage: true });
        await page.close();
      }
      await context.close();
    }
  }
  sql('alter table requests drop constraint no_evil');
  assert.deepEqual(found, []);
});

test('the theme can be chosen, stays, and comes before the first paint; the keyboard reaches the content', async () => {
  const page = await visit('/#/live');
  const paper = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const light = await paper();
  const button = page.locator('#theme');
  await button.click();
  await button.click();
  assert.match(await button.textContent(), /Dark/);
  assert.notEqual(await paper(), light);
  await page.reload({ waitUntil: 'commit' });
  await page.waitForSelector('main');
  assert.notEqual(await paper(), light);
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
  await page.context().close();
});
