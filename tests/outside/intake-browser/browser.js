// Pages on another origin send numbered events with posthog-js and @segment/analytics-next, while the service is killed and restarted, and
// when the page is left. Each event is stored, once; those of a page that the key does not name are not.
//
// usage: node browser.js; intake-browser.sh sets the environment
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { chromium } from 'playwright-core';

const { BINARY, PSQL, CHROMIUM, SERVICE_LOG } = process.env;
const port = Number(process.env.PORT);
const url = `http://127.0.0.1:${port}`;
// `localhost` and `127.0.0.1` are different sites for a browser.
const page = { port: port + 1, origin: `http://localhost:${port + 1}`, other: `http://127.0.0.1:${port + 1}` };
const EVENTS = 60;

const tidegate = (...args) => execFileSync(BINARY, args, { encoding: 'utf8' }).trim();
let service;
async function start() {
  const log = openSync(SERVICE_LOG, 'a');
  service = spawn(BINARY, [], { stdio: ['ignore', log, log] });
  await until('the service listens', () => fetch(`${url}/health/ready`).then((answer) => answer.ok, () => false));
}
function ended(signal) {
  const end = new Promise((done) => service.once('exit', done));
  service.kill(signal);
  return end;
}
async function until(what, condition, seconds = 30) {
  const end = Date.now() + seconds * 1000;
  while (!(await condition())) {
    assert(Date.now() < end, `not within ${seconds} s: ${what}`);
    await sleep(100);
  }
}

/** The numbers that a library has stored, sorted. */
function stored(database, library) {
  const members = "coalesce(payload->'properties'->>'library', '') = '" + library + "'";
  const query = `select payload->'properties'->>'n' from requests where ${members}`;
  const text = execFileSync(PSQL, ['-XAtc', query, database], { encoding: 'utf8' }).trim();
  return text === '' ? [] : text.split('\n').map(Number).sort((one, other) => one - other);
}

const html = (key) => `<!doctype html><title>a shop</title>
<script src="/segment/index.js"></script>
<script type="module">
  import posthog from '/posthog/module.no-external.js';
  // It sends nothing from a browser under automation unless told to.
  posthog.init('${key}', { api_host: '${url}', autocapture: false, capture_pageview: false, opt_out_useragent_filter: true });
  // Without settings of our own it asks Segment for them.
  const [analytics] = await AnalyticsNext.AnalyticsBrowser.load(
    { writeKey: '${key}', cdnSettings: { integrations: { 'Segment.io': { apiKey: '${key}', apiHost: '${url.slice(7)}/v1', protocol: 'http' } } } },
    { integrations: { 'Segment.io': { protocol: 'http' } } },
  );
  window.send = (n) => {
    posthog.capture('n', { library: 'posthog-js', n });
    analytics.track('n', { library: 'analytics-next', n });
  };
</script>`;

await start();
const database = tidegate('url');
const key = tidegate('keys', 'create', '--write-only', '--origin', page.origin, '--name', 'page');
const files = { '/segment/': 'node_modules/@segment/analytics-next/dist/umd/', '/posthog/': 'node_modules/posthog-js/dist/' };
const pages = createServer(async (request, answer) => {
  const folder = Object.keys(files).find((each) => request.url.startsWith(each));
  if (!folder) return answer.setHeader('content-type', 'text/html').end(request.url === '/empty' ? '' : html(key));
  const file = await readFile(files[folder] + request.url.slice(folder.length).replaceAll('..', '')).catch(() => undefined);
  answer.statusCode = file ? 200 : 404;
  answer.setHeader('content-type', 'text/javascript').end(file);
}).listen(page.port);
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
try {
  const tab = await browser.newPage();
  tab.on('pageerror', (error) => console.error('page:', String(error)));
  await tab.goto(page.origin);
  await tab.waitForFunction(() => window.send);
  const send = (from, to) => tab.evaluate(async ([n, end]) => {
    for (; n < end; n += 1) {
      window.send(n);
      await new Promise((done) => setTimeout(done, 50));
    }
  }, [from, to]);

  await send(0, 20);
  const sending = send(20, EVENTS - 1);
  await sleep(500);
  await ended('SIGKILL');
  await sleep(1000);
  await start();
  await sending;
  const all = (library, count) => until(`${count} events of ${library}, now ${stored(database, library)}`, () => stored(database, library).length >= count);
  await all('analytics-next', EVENTS - 1);
  await all('posthog-js', EVENTS - 1);
  // The page is left right after its last events.
  await tab.evaluate((n) => window.send(n), EVENTS - 1);
  await tab.goto(`${page.origin}/empty`);
  for (const library of ['analytics-next', 'posthog-js']) {
    await all(library, EVENTS);
    // Repetitions come with the same batches; both libraries are silent now.
    assert.deepEqual(stored(database, library), Array.from({ length: EVENTS }, (_, n) => n), library);
    console.log(`${library}: ${EVENTS} events stored, each once`);
  }

  const stranger = await browser.newPage();
  const refused = [];
  stranger.on('response', (answer) => answer.url().startsWith(url) && refused.push(answer.status()));
  await stranger.goto(page.other);
  await stranger.waitForFunction(() => window.send);
  await stranger.evaluate(() => window.send(-1));
  await until('a page of another origin is refused', () => refused.includes(403));
  assert.equal(stored(database, 'analytics-next').includes(-1), false);
  assert.equal(stored(database, 'posthog-js').includes(-1), false);
} finally {
  await browser.close();
  pages.close();
  await ended('SIGTERM');
}
