// The document at `/stress`: every stress route, run from the browser. Results are a table and a chart, which are there before the first run.
import { get, next, refresh } from './api.js';
import { Chart, LATENCY } from './charts.js';
import { busy, bytes, confirm, count, field, h, ms, options, plural, pretty, replace, say, table, text } from './dom.js';
import { has_faults, may } from './session.js';
import { has_stress, show_views, start } from './shell.js';

const SHAPES = ['flat', 'nested', 'array', 'multiline', 'mixed'];

/** What a run measures: latencies by operation, and by second. */
class Run {
  constructor() {
    this.clear();
  }

  clear() {
    this.operations = new Map();
    this.begun = 0;
    this.ended = 0;
    this.errors = [];
    this.seconds = [];
  }

  add(name, elapsed, is_good, size = 0, problem = '') {
    let own = this.operations.get(name);
    if (!own) this.operations.set(name, (own = { done: 0, failed: 0, bytes: 0, times: [] }));
    own.done += 1;
    own.bytes += size;
    if (!is_good) {
      own.failed += 1;
      if (this.errors.length < 20) this.errors.push(`${name}: ${problem}`);
    }
    if (own.times.length < 200_000) own.times.push(elapsed);
    const second = Math.floor((performance.now() - this.begun) / 1000);
    for (let at = this.seconds.length; at <= second && at < 3600; at += 1) this.seconds.push([]);
    this.seconds[second]?.push(elapsed);
  }

  get elapsed_s() {
    return ((this.ended || performance.now()) - this.begun) / 1000;
  }
}

export function percentile(sorted, rank) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.ceil(rank * sorted.length) - 1)] : null;
}

start(async (main) => {
  show_views('stress');
  if (!has_stress()) {
    replace(main, h('section', { class: 'hero' }, h('h1', {}, 'Stress'), h('p', { class: 'lead' }, 'This needs the permission stress or records:read.')));
    return;
  }
  const run = new Run();
  let stop = null;

  const number = (value, least, most, step = 1) => h('input', { type: 'number', value, min: least, max: most, step, inputmode: 'numeric' });
  const word = (value, props = {}) => h('input', { value, spellcheck: 'false', autocomplete: 'off', ...props });
  const collection = word('stress_test_items', { pattern: '[A-Za-z_][A-Za-z0-9_]*', maxlength: '63', required: true });
  const token = h('input', { type: 'password', autocomplete: 'off', placeholder: 'that of this page' });
  const size = number(200, 20, 900_000);
  const concurrency = number(4, 1, 64);
  const seconds = number(5, 1, 600);

  /** A request with the token of the field, else that of the cookie. */
  const call = async (method, path, { body, headers = {}, signal } = {}) => {
    const own = { ...headers };
    if (token.value.trim()) own.authorization = `Bearer ${token.value.trim()}`;
    const init = { method, body, headers: own, signal, cache: 'no-store' };
    let answer = await fetch(`/ui${path}`, init);
    if (answer.status === 401 && !token.value.trim() && !path.includes('/error/auth') && (await refresh())) answer = await fetch(`/ui${path}`, init);
    return answer;
  };
  const json = (method, path, value, options = {}) => call(method, path, { ...options, body: JSON.stringify(value), headers: { 'content-type': 'application/json', ...options.headers } });

  /** Times a request and its whole body. `expect`: the statuses that are good. */
  const timed = async (name, expect, ask) => {
    const begun = performance.now();
    let answer;
    try {
      answer = await ask();
      const body = await answer.text();
      const is_good = expect.includes(answer.status);
      run.add(name, performance.now() - begun, is_good, body.length, `${answer.status} ${body.slice(0, 160)}`);
      return { answer, body, is_good };
    } catch (error) {
      if (error.name !== 'AbortError') run.add(name, performance.now() - begun, false, 0, error.message);
      return { answer: null, body: '', is_good: false };
    }
  };

  // Results.
  const latency = new Chart('Latency', [{ label: 'p50', ink: 'accepted', points: true }, { label: 'p99', ink: 'dead', points: true }],
    { ...LATENCY, unit: 'of each second of the run', least: 5, time: false, xs: (value) => `${value} s` });
  const spread = new Chart('Percentiles', [{ label: 'at this percentile', ink: 'committed', fill: true }],
    { ...LATENCY, unit: 'of all operations', least: 5, time: false, xs: (value) => `p${value}` });
  latency.set([[0, 1, 2, 3, 4, 5], Array(6).fill(null), Array(6).fill(null)]);
  spread.set([[0, 25, 50, 75, 99], Array(5).fill(null)]);
  const results = h('div');
  const status = h('p', { class: 'state', role: 'status', id: 'run' });
  const problems = h('ul', { class: 'notices' });
  const bar = h('div', { class: 'progress' }, h('span'));

  const show = () => {
    const rows = [...run.operations].map(([name, own]) => {
      const sorted = Float64Array.from(own.times).sort();
      return [name, count(own.done), own.failed ? h('b', { class: 'error' }, count(own.failed)) : '0', count(own.done / Math.max(0.001, run.elapsed_s)),
        ms(percentile(sorted, 0.5)), ms(percentile(sorted, 0.95)), ms(percentile(sorted, 0.99)), ms(sorted.at(-1)), bytes(own.bytes)];
    });
    replace(results, table('Results of the last run', [['Operation'], ['Done', 'number'], ['Failed', 'number'], ['A second', 'number'], ['p50', 'number'], ['p95', 'number'], ['p99', 'number'], ['Longest', 'number'], ['Received', 'number']],
      rows.length ? rows : [['Nothing ran yet.', ...Array(8).fill('')]]));
    if (run.seconds.length) {
      const points = run.seconds.map((times) => Float64Array.from(times).sort());
      latency.set([points.map((_, at) => at), points.map((times) => percentile(times, 0.5)), points.map((times) => percentile(times, 0.99))]);
      const all = Float64Array.from([...run.operations.values()].flatMap((own) => own.times)).sort();
      const ranks = [...Array.from({ length: 20 }, (_, at) => at * 5), 99, 99.9];
      spread.set([ranks, ranks.map((rank) => percentile(all, Math.max(0.0001, rank / 100)))]);
    }
    replace(problems, run.errors.slice(0, 8).map((error) => h('li', {}, error)));
  };

  const say_state = (kind, message) => replace(status, h('span', { class: `dot ${kind}`, 'aria-hidden': 'true' }), message);
  const stop_button = h('button', { type: 'button', class: 'danger', disabled: true, onclick: () => stop?.abort() }, 'Stop');

  /** Runs `work`, and shows what it measured. */
  const measure = async (title, work, limit_s = 0) => {
    if (stop) return say('Something runs already. Stop it first.', 'bad');
    stop = new AbortController();
    stop_button.disabled = false;
    run.clear();
    run.begun = performance.now();
    status.dataset.state = 'running';
    say_state('warn', `${title}: running`);
    const timer = setInterval(() => {
      show();
      if (limit_s) bar.firstChild.style.width = `${Math.min(100, (run.elapsed_s / limit_s) * 100)}%`;
    }, 250);
    let failure = '';
    try {
      await work(stop.signal);
    } catch (error) {
      if (error.name !== 'AbortError') failure = error.message;
    }
    clearInterval(timer);
    run.ended = performance.now();
    stop = null;
    stop_button.disabled = true;
    bar.firstChild.style.width = '100%';
    const failed = [...run.operations.values()].reduce((sum, own) => sum + own.failed, 0);
    const done = [...run.operations.values()].reduce((sum, own) => sum + own.done, 0);
    show();
    if (failure) run.errors.push(failure);
    const is_good = !failure && failed === 0;
    status.dataset.state = is_good ? 'green' : 'red';
    say_state(is_good ? 'ok' : 'bad', is_good
      ? `${title}: ${plural(done, 'request')} in ${run.elapsed_s.toFixed(1)} s, all as expected`
      : `${title}: ${count(failed)} of ${plural(done, 'request')} failed${failure ? `. ${failure}` : ''}`);
    show();
    return undefined;
  };

  const pad = (bytes_wanted, base) => {
    const own = { ...base };
    const missing = bytes_wanted - JSON.stringify(own).length - 9;
    return missing > 0 ? { ...own, pad: 'x'.repeat(missing) } : own;
  };
  const records = () => `/api/stress/records/${encodeURIComponent(collection.value.trim())}`;
  const pool = (signal, until_s, work) => {
    const end = performance.now() + until_s * 1000;
    return Promise.all(Array.from({ length: Number(concurrency.value) }, async (_, worker) => {
      for (let round = 0; performance.now() < end && !signal.aborted; round += 1) await work(worker, round, signal);
    }));
  };

  // Loops over records.
  const chosen = Object.fromEntries(['create', 'get', 'patch', 'put', 'list', 'delete'].map((name) => [name, h('input', { type: 'checkbox', checked: true })]));
  const loop = async (signal) => {
    const key = `run-${Math.random().toString(36).slice(2, 10)}`;
    await pool(signal, Number(seconds.value), async (worker, round) => {
      const value = pad(Number(size.value), { name: key, worker, round, state: round % 2 ? 'open' : 'closed', n: round });
      const made = await timed('create', [201], () => json('POST', records(), value, { signal }));
      if (!made.is_good) return;
      const { id } = JSON.parse(made.body);
      const tag = made.answer.headers.get('etag');
      const path = `${records()}/${id}`;
      if (chosen.get.checked) {
        const read = await timed('get', [200], () => call('GET', path, { signal }));
        if (read.is_good && JSON.parse(read.body).round !== round) run.add('get', 0, false, 0, `the record ${id} reads back with another value`);
      }
      if (chosen.patch.checked) await timed('patch', [200], () => json('PATCH', path, { n: round + 1, state: 'changed' }, { signal, headers: { 'if-match': tag } }));
      if (chosen.put.checked) await timed('put', [200], () => json('PUT', `${path}?mode=replace`, { ...value, n: round + 2 }, { signal }));
      if (chosen.list.checked) {
        const query = new URLSearchParams({ filter: `name = "${key}" && worker = ${worker}`, sortBy: '-created', limit: '5' });
        await timed('list', [200], () => call('GET', `${records()}?${query}`, { signal }));
      }
      if (chosen.delete.checked) await timed('delete', [204], () => call('DELETE', path, { signal }));
    });
  };

  // Events, by which the charts of the live view move.
  const a_request = number(20, 1, 10_000);
  const event_names = word('signup, click, order');
  const ack = options(h('select'), ['journaled', 'queued', 'committed'], 'journaled');
  const send_events = (signal) => pool(signal, Number(seconds.value), async (worker, round) => {
    const names = event_names.value.split(',').map((name) => name.trim()).filter(Boolean);
    const lines = Array.from({ length: Number(a_request.value) }, (_, at) => JSON.stringify(pad(Number(size.value), { event: names[(round + at) % names.length] ?? 'event', worker, n: round * Number(a_request.value) + at })));
    await timed('batch', [200, 201, 202], () => call('POST', `/api/v1/events/batch?ack=${ack.value}`, { signal, body: lines.join('\n'), headers: { 'content-type': 'application/x-ndjson' } }));
  });

  // One request.
  const method = options(h('select'), [['POST', 'create'], ['GET', 'get'], ['PUT', 'put'], ['PATCH', 'patch'], ['DELETE', 'delete'], ['LIST', 'list']], 'POST');
  const id = word('', { placeholder: 'of the last one' });
  const filter = word('', { placeholder: 'state = "open" && n > 3' });
  const filter_field = word('', { placeholder: 'n' });
  const filter_operator = options(h('select'), ['eq', 'ne', 'gt', 'gte', 'lt', 'lte', 'in', 'like'], 'gte');
  const filter_value = word('', { placeholder: '1' });
  const sort = word('-created');
  const limit = number(20, 1, 1000);
  const mode = options(h('select'), [['', 'merge'], ['replace', 'replace']], '');
  const body = h('textarea', { class: 'code', rows: '5', spellcheck: 'false', 'aria-label': 'Body', value: '{\n  "name": "a",\n  "n": 1,\n  "state": "open"\n}' });
  const answer_head = h('p', { class: 'quiet', role: 'status' });
  const answer_body = h('pre', { hidden: true, tabindex: '0', 'aria-label': 'Answer' });
  let more_path = null;
  const more = h('button', { type: 'button', hidden: true, onclick: () => busy(more, () => one(more_path)) }, 'Next page');
  const one = async (path) => {
    const is_list = method.value === 'LIST';
    const query = new URLSearchParams();
    if (is_list) {
      if (filter.value.trim()) query.set('filter', filter.value.trim());
      if (filter_field.value.trim() && filter_value.value) query.set(`filter_${filter_field.value.trim()}`, `${filter_operator.value}:${filter_value.value}`);
      if (sort.value.trim()) query.set('sortBy', sort.value.trim());
      query.set('limit', limit.value);
      query.set('count', 'exact');
    }
    const begun = performance.now();
    const has_body = ['POST', 'PUT', 'PATCH'].includes(method.value);
    const of_record = is_list || method.value === 'POST' ? '' : `/${encodeURIComponent(id.value.trim())}`;
    const replacing = method.value === 'PUT' && mode.value ? `?mode=${mode.value}` : '';
    const answer = await call(is_list ? 'GET' : method.value, path ?? `${records()}${of_record}${is_list ? `?${query}` : replacing}`, {
      body: has_body ? body.value : undefined, headers: has_body ? { 'content-type': 'application/json' } : {},
    });
    const read = await answer.text();
    const elapsed = performance.now() - begun;
    more_path = is_list ? next(answer) : null;
    more.hidden = !more_path;
    const facts = [`${answer.status} ${answer.statusText}`, ms(elapsed), bytes(read.length)];
    if (answer.headers.get('etag')) facts.push(`version ${answer.headers.get('etag')}`);
    if (answer.headers.get('x-total-count')) facts.push(`${plural(Number(answer.headers.get('x-total-count')), 'match', 'matches')} in all`);
    text(answer_head, facts.join(' · '));
    answer_head.className = answer.ok ? 'badge ok' : 'badge bad';
    answer_body.hidden = false;
    try {
      const value = JSON.parse(read);
      if (value.id) id.value = value.id;
      text(answer_body, pretty(value));
    } catch {
      text(answer_body, read || 'No body.');
    }
  };

  // Large payloads.
  const large_size = number(4, 0.1, 64, 0.1);
  const large_count = number(4, 1, 100);
  const large = async (signal) => {
    const blob = 'large-payload '.repeat(Math.ceil((Number(large_size.value) * 1048576) / 14)).slice(0, Math.max(1, Math.floor(Number(large_size.value) * 1048576) - 12));
    let left = Number(large_count.value);
    const path = `/api/stress/large-payload/${encodeURIComponent(collection.value.trim())}`;
    // The service takes four at once; further ones are answered 503.
    await Promise.all(Array.from({ length: Math.min(3, Number(concurrency.value)) }, async () => {
      while (left > 0 && !signal.aborted) {
        left -= 1;
        const made = await timed('create large', [201], () => json('POST', path, { data: blob }, { signal }));
        if (!made.is_good) continue;
        const own = JSON.parse(made.body);
        const read = await timed('get large', [200], () => call('GET', `${path}/${own.id}`, { signal }));
        if (read.is_good && JSON.parse(read.body).data !== blob) run.add('get large', 0, false, 0, 'another content than was sent');
      }
    }));
  };

  // Streams of server-sent events.
  const rate = number(100, 0.001, 10_000, 'any');
  const messages = number(500, 1, 1_000_000);
  const message_size = number(0, 0, 65_536);
  const shape = options(h('select'), SHAPES, 'flat');
  const format = options(h('select'), ['plain', 'datastar'], 'plain');
  const names = word('', { placeholder: 'tick, tock' });
  const live_rate = h('strong', {}, '0');
  const received = h('strong', {}, '0');
  const gaps = h('strong', {}, '0');
  const reconnects = h('strong', {}, '0');
  const streaming = new Chart('Stream', [{ label: 'messages', ink: 'accepted', fill: true }], { unit: 'a second', least: 10, time: false, xs: (value) => `${value} s` });
  streaming.set([[0, 5, 10], [null, null, null]]);
  const stream = async (signal) => {
    const query = new URLSearchParams({ rate: rate.value, count: messages.value, shape: shape.value, format: format.value });
    if (Number(message_size.value) > 0) query.set('size', message_size.value);
    const own_names = names.value.split(',').map((name) => name.trim()).filter(Boolean);
    if (own_names.length) query.set('events', own_names.join(','));
    const total = Number(messages.value);
    const state = { seen: 0, last: 0, gaps: 0, reconnects: 0, bytes: 0, by_second: [] };
    const begun = performance.now();
    const show_stream = () => {
      const second = Math.floor((performance.now() - begun) / 1000);
      text(received, count(state.seen));
      text(gaps, count(state.gaps));
      text(reconnects, count(state.reconnects));
      text(live_rate, count(state.by_second[Math.max(0, second - 1)] ?? state.by_second[second] ?? 0));
      const until = Math.max(second + 1, 2);
      streaming.set([Array.from({ length: until }, (_, at) => at), Array.from({ length: until }, (_, at) => state.by_second[at] ?? 0)]);
      bar.firstChild.style.width = `${Math.min(100, (state.seen / total) * 100)}%`;
    };
    const timer = setInterval(show_stream, 250);
    try {
      while (state.last < total && !signal.aborted && state.reconnects < 20) {
        const answer = await call('GET', `/api/stress/sse-stream?${query}`, { signal, headers: state.last ? { 'last-event-id': String(state.last) } : {} });
        if (answer.status === 204) break;
        if (!answer.ok) throw new Error(`The stream was refused with ${answer.status}: ${(await answer.text()).slice(0, 200)}`);
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = '';
        for (;;) {
          const { value, done } = await reader.read().catch((error) => { if (signal.aborted) throw error; return { done: true }; });
          if (done) break;
          rest += value;
          const blocks = rest.split('\n\n');
          rest = blocks.pop();
          for (const block of blocks) {
            const found = block.match(/^id: ?(\d+)$/m);
            if (!found) continue;
            const number_of = Number(found[1]);
            // Numbers follow each other: a jump is a gap, also over a reconnection.
            if (number_of !== state.last + 1) state.gaps += 1;
            state.last = number_of;
            state.seen += 1;
            state.bytes += block.length + 2;
            const second = Math.floor((performance.now() - begun) / 1000);
            state.by_second[second] = (state.by_second[second] ?? 0) + 1;
          }
        }
        if (state.last < total && !signal.aborted) {
          state.reconnects += 1;
          await new Promise((resolve) => setTimeout(resolve, 500));
        }
      }
    } finally {
      clearInterval(timer);
      show_stream();
    }
    const is_whole = signal.aborted || (state.seen === total && state.gaps === 0);
    run.add('stream', performance.now() - begun, is_whole, state.bytes, `${count(state.seen)} of ${count(total)} messages, ${plural(state.gaps, 'gap')}`);
  };

  // Errors on demand.
  const delay = number(300, 1, 30_000);
  const errors = () => [
    ['404', 404, `/api/stress/error/404/${encodeURIComponent(collection.value.trim())}/none`],
    ['auth', 401, '/api/stress/error/auth'],
    ['500', 500, '/api/stress/error/500'],
    ['timeout in a statement', 504, `/api/stress/error/timeout?mode=statement&delay_ms=${delay.value}`],
    ['timeout before Postgres', 504, `/api/stress/error/timeout?mode=before&delay_ms=${delay.value}`],
    ['exhausted pool', 503, `/api/stress/error/timeout?mode=pool&delay_ms=${delay.value}`],
  ];
  const simulate = (some) => (signal) => (async () => {
    for (const [name, expected, path] of some) {
      if (signal.aborted) return;
      await timed(`${name} (${expected})`, [expected], () => call('GET', path, { signal }));
    }
  })();

  // Faults.
  const fault = {
    path: word('/api/stress/records/*'), method: options(h('select'), [['', 'any'], 'GET', 'POST', 'PUT', 'PATCH', 'DELETE'], ''),
    status: number('', 400, 599), delayMs: number('', 0, 30_000), jitterMs: number('', 0, 30_000), retryAfter: number('', 1, 3600), count: number(1, 1, 1_000_000),
    probability: number('', 0, 1, 0.01), truncateBodyBytes: number('', 0, 10_000_000), injectSseEvent: word('', { placeholder: 'text of an event' }),
    dropConnection: h('input', { type: 'checkbox' }), corruptBody: h('input', { type: 'checkbox' }),
  };
  const fault_list = h('div');
  const load_faults = async () => {
    const answer = await call('GET', '/_test/inject-error');
    if (!answer.ok) return;
    const { faults } = await answer.json();
    replace(fault_list, faults.length
      ? table('Current faults', [['Path'], ['Effect', 'wide']], faults.map(({ path, ...effect }) => [h('code', {}, path), h('code', {}, JSON.stringify(effect))]))
      : h('p', { class: 'quiet' }, 'No fault is set.'));
  };
  const set_fault = async () => {
    const value = { path: fault.path.value.trim() };
    if (fault.method.value) value.method = fault.method.value;
    for (const name of ['status', 'delayMs', 'jitterMs', 'retryAfter', 'count', 'probability', 'truncateBodyBytes']) if (fault[name].value !== '') value[name] = Number(fault[name].value);
    if (fault.injectSseEvent.value) value.injectSseEvent = fault.injectSseEvent.value;
    for (const name of ['dropConnection', 'corruptBody']) if (fault[name].checked) value[name] = true;
    const answer = await json('POST', '/_test/inject-error', value);
    const read = await answer.json();
    if (!answer.ok) throw new Error(read.error.message);
    say('The fault is set.');
    await load_faults();
  };
  /** Sets each kind of fault on a path of its own, strikes it, and checks what came. */
  const drill = async (signal) => {
    const path = '/api/stress/config';
    const strike = async (name, effect, is_right) => {
      await json('POST', '/_test/inject-error', { path, count: 1, ...effect }, { signal });
      const begun = performance.now();
      let seen;
      try {
        const answer = await call('GET', path, { signal });
        seen = { status: answer.status, body: await answer.text(), retry: answer.headers.get('retry-after'), elapsed: performance.now() - begun };
      } catch (error) {
        seen = { broken: true, elapsed: performance.now() - begun, message: error.message };
      }
      run.add(name, seen.elapsed, is_right(seen), 0, `answered ${JSON.stringify(seen).slice(0, 160)}`);
    };
    const whole = await (await call('GET', path, { signal })).text();
    await strike('fault: status', { status: 503, retryAfter: 2 }, (seen) => seen.status === 503 && seen.retry === '2');
    await strike('fault: delay', { delayMs: 200 }, (seen) => seen.status === 200 && seen.elapsed >= 190);
    await strike('fault: dropped connection', { dropConnection: true, method: 'GET', count: 20 }, (seen) => seen.broken);
    // A browser repeats a request whose connection broke, so the fault may have struck more than once.
    await call('DELETE', '/_test/inject-error', { signal });
    await strike('fault: corrupted body', { corruptBody: true }, (seen) => seen.broken || seen.body !== whole);
    await strike('fault: cut body', { truncateBodyBytes: 20, count: 20 }, (seen) => seen.broken || seen.body?.length === 20);
    await call('DELETE', '/_test/inject-error', { signal });
    await json('POST', '/_test/inject-error', { path: '/api/stress/sse-stream', injectSseEvent: 'injected', count: 1 }, { signal });
    const begun = performance.now();
    const answer = await call('GET', '/api/stress/sse-stream?count=1&rate=100', { signal });
    run.add('fault: injected event', performance.now() - begun, (await answer.text()).includes('injected'), 0, 'no such event');
    await load_faults();
  };

  // The configuration.
  const config = h('div', { class: 'stack' });
  const load_config = async () => {
    if (!may('stress')) return;
    const now = await get('/api/stress/config');
    const inputs = Object.fromEntries(Object.entries(now).filter(([name]) => name !== 'limits').map(([name, value]) => [name, typeof value === 'number' ? number(value, 1, 1e12) : word(value)]));
    const save = h('button', { type: 'button', onclick: () => busy(save, async () => {
      const changes = {};
      for (const [name, input] of Object.entries(inputs)) {
        const value = typeof now[name] === 'number' ? Number(input.value) : input.value;
        if (value !== now[name]) changes[name] = value;
      }
      const answer = await json('POST', '/api/stress/config', changes);
      const read = await answer.json();
      if (!answer.ok) throw new Error(read.error.message);
      say('The configuration is changed, until the process ends.');
      await load_config();
    }) }, 'Change');
    replace(config,
      h('div', { class: 'fields' }, Object.entries(inputs).map(([name, input]) => field(name.replaceAll('_', ' '), input))),
      h('div', { class: 'row' }, may('admin') && save, h('small', {}, 'Changes hold until the process ends.')),
      table('Limits', [['Limit'], ['Value', 'number']], Object.entries(now.limits).map(([name, value]) => [name.replaceAll('_', ' '), count(value)])));
  };

  const start_button = (label, title, work, limit_of = () => 0, kind = 'primary') => h('button', { type: 'button', class: kind, onclick: () => measure(title, work, limit_of()) }, label);
  const of_seconds = () => Number(seconds.value);
  const PANELS = [
    ['records', 'Records', may('records:write'), () => [
      h('p', { class: 'quiet' }, 'Each worker creates a record, reads, changes, replaces, lists and deletes it, again and again.'),
      h('div', { class: 'row' }, Object.entries(chosen).map(([name, box]) => h('label', { class: 'check' }, Object.assign(box, { disabled: name === 'create' }), name))),
      h('div', { class: 'row' }, start_button('Run the loop', 'Records', loop, of_seconds)),
      h('h3', {}, 'One request'),
      h('div', { class: 'fields' }, field('Operation', method), field('Id', id), field('PUT', mode), field('Filter', filter), field('Sort by', sort), field('Limit', limit), field('Field', filter_field), field('Operator', filter_operator), field('Value', filter_value)),
      body, h('div', { class: 'row' }, ...(() => { const send = h('button', { type: 'button', id: 'send', onclick: () => busy(send, () => one()) }, 'Send'); return [send, more, answer_head]; })()), answer_body]],
    ['events', 'Events', may('events:write'), () => [
      h('p', { class: 'quiet' }, 'Batches of events, which the live view shows on their way.'),
      h('div', { class: 'fields' }, field('Events a request', a_request), field('Event names', event_names), field('Wait for', ack)),
      h('div', { class: 'row' }, start_button('Send events', 'Events', send_events, of_seconds))]],
    ['large', 'Large payloads', may('stress'), () => [
      h('p', { class: 'quiet' }, 'Objects of up to 64 MiB, stored and read back byte for byte.'),
      h('div', { class: 'fields' }, field('MiB', large_size), field('Payloads', large_count)),
      h('div', { class: 'row' }, start_button('Send large payloads', 'Large payloads', large))]],
    ['stream', 'Stream', may('stress'), () => [
      h('p', { class: 'quiet' }, 'Server-sent events with a number each. A broken stream is continued behind the last number.'),
      h('div', { class: 'fields' }, field('Rate a second', rate), field('Messages', messages), field('Size', message_size, '0: as small as possible'), field('Shape', shape), field('Format', format), field('Event names', names)),
      h('div', { class: 'row' }, start_button('Open the stream', 'Stream', stream)),
      h('dl', { class: 'equation plain' }, [['a second', live_rate], ['received', received], ['gaps', gaps], ['reconnections', reconnects]].map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value)))),
      streaming.figure]],
    ['errors', 'Errors', may('stress'), () => [
      h('p', { class: 'quiet' }, 'Real failures, on demand. A run is green if each answers with its status.'),
      h('div', { class: 'fields' }, field('Delay, ms', delay)),
      h('div', { class: 'row' }, start_button('Run all', 'Errors', (signal) => simulate(errors())(signal)),
        errors().map(([name, expected], at) => start_button(`${name} → ${expected}`, name, (signal) => simulate([errors()[at]])(signal), () => 0, '')))]],
    ['faults', 'Faults', has_faults && may('admin'), () => [
      h('p', { class: 'quiet' }, 'A fault strikes requests of a path, those of this page too: delays, errors, broken and damaged answers.'),
      h('div', { class: 'fields' }, field('Path', fault.path), field('Method', fault.method), field('Status', fault.status), field('Retry after, s', fault.retryAfter), field('Delay, ms', fault.delayMs), field('Jitter, ms', fault.jitterMs), field('Times', fault.count), field('Probability', fault.probability), field('Cut after bytes', fault.truncateBodyBytes), field('Inject an event', fault.injectSseEvent)),
      h('div', { class: 'row' }, h('label', { class: 'check' }, fault.dropConnection, 'drop the connection'), h('label', { class: 'check' }, fault.corruptBody, 'corrupt the body')),
      h('div', { class: 'row' }, ...(() => {
        const set = h('button', { type: 'button', onclick: () => busy(set, set_fault) }, 'Set the fault');
        const clear = h('button', { type: 'button', class: 'danger', onclick: async () => { if (await confirm('Clear all faults?', 'All faults of this service are removed.', 'Clear', 'danger')) await busy(clear, async () => { await call('DELETE', '/_test/inject-error'); await load_faults(); }); } }, 'Clear all');
        return [start_button('Try every fault', 'Faults', drill), set, clear];
      })()), fault_list]],
    ['config', 'Configuration', may('stress'), () => [config]],
  ].filter(([, , is_permitted]) => is_permitted);

  const tabs = PANELS.map(([name, title]) => h('button', { type: 'button', role: 'tab', id: `tab-${name}`, 'aria-controls': `panel-${name}`, onclick: () => choose(name) }, title));
  const panels = PANELS.map(([name, , , content]) => h('div', { role: 'tabpanel', id: `panel-${name}`, 'aria-labelledby': `tab-${name}`, class: 'panel' }, content()));
  const choose = (name, is_focused = false) => {
    PANELS.forEach(([own], at) => {
      tabs[at].setAttribute('aria-selected', String(own === name));
      tabs[at].tabIndex = own === name ? 0 : -1;
      panels[at].hidden = own !== name;
      if (own === name && is_focused) tabs[at].focus();
    });
    history.replaceState(null, '', `#${name}`);
  };
  const tablist = h('div', { role: 'tablist', class: 'tabs', 'aria-label': 'Kinds of runs', onkeydown: (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = tabs.findIndex((tab) => tab.tabIndex === 0);
    choose(PANELS[(at + step + PANELS.length) % PANELS.length][0], true);
  } }, tabs);

  replace(main,
    h('section', { class: 'hero' }, h('h1', {}, 'Stress'), h('p', { class: 'lead' }, 'Every stress route of this service, run from this browser, over its own connections. A browser opens six of them at once to one service.')),
    h('section', { 'aria-label': 'Of every run', class: 'fields' }, field('Collection', collection), field('Token', token), field('Workers', concurrency), field('Seconds', seconds), field('Size, bytes', size)),
    h('section', {}, h('h2', { class: 'hidden' }, 'Runs'), tablist, panels),
    h('section', { 'aria-label': 'Results' }, h('h2', { class: 'hidden' }, 'Results'), h('div', { class: 'row between' }, status, stop_button), bar, problems),
    h('section', { class: 'charts', 'aria-label': 'Charts of the last run' }, latency.figure, spread.figure),
    h('section', { 'aria-label': 'Table of the last run' }, results));
  say_state('', 'Nothing ran yet');
  status.dataset.state = 'idle';
  show();
  choose(PANELS.some(([name]) => name === location.hash.slice(1)) ? location.hash.slice(1) : PANELS[0][0]);
  document.getElementById('views').addEventListener('click', () => stop?.abort());
  await Promise.allSettled([load_config(), has_faults && may('admin') ? load_faults() : null]);
});
