// The live view: the ledger in words, the way of an event, rates and latencies, and what runs.
import { Events } from './api.js';
import { Chart, LATENCY } from './charts.js';
import { ago, bytes, compact, count, duration, h, ms, plural, replace, text } from './dom.js';
import { may } from './session.js';

// What the charts show: five minutes, and less where less is known.
const SPAN_S = 300;
const LEAST_SPAN_S = 60;
const PARTS = [
  ['committed', 'committed', 'in Postgres'],
  ['duplicates', 'duplicates', 'left out for their key'],
  ['dead', 'dead', 'dead letters'],
  ['discarded', 'discarded', 'given up by an operator'],
  ['quarantined', 'quarantined', 'unreadable in the journal'],
  ['pending', 'pending', 'on their way'],
];

/** What the ledger says, in one sentence. */
export function sentence(ledger) {
  if (!ledger) return 'The service is starting.';
  if (ledger.accepted === 0) return 'No event was accepted yet.';
  if (!ledger.balanced) return 'The ledger does not balance: some accepted events are not accounted for.';
  if (ledger.accepted === 1) return 'The one accepted event is accounted for.';
  return `All ${count(ledger.accepted)} accepted events are accounted for.`;
}

class Meter {
  constructor(name) {
    this.bar = h('span');
    this.track = h('span', { class: 'meter', role: 'meter', 'aria-label': name, 'aria-valuemin': '0', 'aria-valuemax': '100' }, this.bar);
  }

  set(share, kind = '') {
    const percent = Math.min(100, Math.max(0, share * 100));
    this.bar.style.width = `${percent > 0 ? Math.max(1.5, percent) : 0}%`;
    this.bar.className = kind || (share > 0.8 ? 'bad' : share > 0.5 ? 'warn' : '');
    this.track.setAttribute('aria-valuenow', percent.toFixed(0));
  }
}

class Stage {
  constructor(name, meter) {
    this.big = h('strong', {}, '–');
    this.small = h('span', { class: 'quiet' }, '');
    this.meter = meter ? new Meter(name) : null;
    this.extra = h('span', { class: 'dots' });
    this.element = h('li', { class: 'stage' }, h('h3', {}, name), this.big, this.small, this.meter?.track, this.extra);
  }

  set(big, small, share) {
    text(this.big, big);
    text(this.small, small);
    if (this.meter) this.meter.set(share ?? 0);
  }
}

export function open(main) {
  document.title = 'Live · Tidegate';
  const state = h('span', {}, 'Connecting');
  const dot = h('span', { class: 'dot', 'aria-hidden': 'true' });
  const line = h('p', { class: 'state', role: 'status' }, dot, state);
  const facts = h('p', { class: 'facts quiet' });
  const headline = h('h1', { class: 'ledger' }, 'Counting every accepted event.');
  const accepted = h('dd', {}, '–');
  const sums = PARTS.map(([, , hint]) => h('dd', { title: hint }, '–'));
  const equation = h('dl', { class: 'equation', 'aria-label': 'The ledger' },
    h('div', { class: 'whole' }, h('dt', {}, 'accepted'), accepted),
    PARTS.map(([, name], at) => h('div', { class: `part ink-${name}` }, h('dt', {}, name === 'dead' && may('deadletters:read') ? h('a', { href: '/#/dead-letters' }, name) : name), sums[at])));
  const band = PARTS.map(([name]) => h('span', { class: `ink-${name}`, hidden: true }));
  const bar = h('div', { class: 'band', 'aria-hidden': 'true' }, band);

  const queue = new Stage('Queue', true);
  const journal = new Stage('Journal', true);
  const lanes = new Stage('Lanes', false);
  const pool = new Stage('Postgres', true);
  const flow = h('ol', { class: 'flow' }, [queue, journal, lanes, pool].map((stage) => stage.element));

  const rates = new Chart('Events', [
    { label: 'accepted', ink: 'accepted', fill: true }, { label: 'committed', ink: 'committed' }, { label: 'dead', ink: 'dead' },
  ], { unit: 'a second', least: 10, span: LEAST_SPAN_S });
  const pending = new Chart('Pending', [{ label: 'pending', ink: 'pending', fill: true }, { label: 'in the queue', ink: 'muted', dash: [4, 3] }], { unit: 'events', least: 10, span: LEAST_SPAN_S });
  const acks = new Chart('Acks', [
    { label: 'p50', ink: 'accepted' }, { label: 'p95', ink: 'pending' }, { label: 'p99', ink: 'dead' },
  ], { ...LATENCY, least: 2, span: LEAST_SPAN_S });
  const writes = new Chart('Disk and Postgres', [
    { label: 'journal sync p99', ink: 'accepted' }, { label: 'COPY p99', ink: 'committed' },
  ], { ...LATENCY, least: 5, span: LEAST_SPAN_S });
  const level = h('small', { title: 'from the head of a request to its answer' });
  acks.figure.querySelector('h3').append(' ', level);

  const lane_list = h('ul', { class: 'tasks' });
  const tasks = h('ul', { class: 'tasks' });
  const summary = h('small');
  const refused = h('p', { class: 'quiet' });
  const notices = h('ul', { class: 'notices' });
  replace(main,
    h('section', { class: 'hero' }, h('div', { class: 'row between' }, line, facts), headline, bar, equation, notices),
    h('section', {}, h('h2', { class: 'hidden' }, 'The way of an event'), flow),
    h('section', {}, h('h2', { class: 'hidden' }, 'The last minutes'), h('div', { class: 'charts' }, [rates, pending, acks, writes].map((chart) => chart.figure))),
    h('section', {}, h('h2', {}, 'Lanes'), lane_list),
    h('section', {}, h('h2', {}, 'Background tasks ', summary), tasks),
    h('section', {}, h('h2', {}, 'Refusals'), refused));

  const history = { x: [], accepted: [], committed: [], dead: [], pending: [], queued: [], p50: [], p95: [], p99: [], sync: [], copy: [] };
  let before = null;
  let last_at = 0;

  const push = (now) => {
    const last = history.x.at(-1);
    if (!before && last && now.at_ms / 1000 - last < 3) {
      // The newest figures of the past are of this second.
      before = now;
      return;
    }
    // Without figures for a while, the lines have a gap.
    const seconds = before ? (now.at_ms - before.at_ms) / 1000 : 0;
    const is_same = before && now.uptime_s >= before.uptime_s && seconds > 0 && seconds < 3;
    if (before && !is_same) add({ x: now.at_ms / 1000 - 0.5 });
    const rate = (name) => (is_same && now[name] !== undefined ? Math.max(0, (now[name] - before[name]) / seconds) : null);
    const levels = now.last_second?.acks ?? {};
    const busiest = Object.entries(levels).sort((one, other) => other[1].count - one[1].count)[0];
    const ack = busiest && busiest[1].count > 0 ? busiest[1] : null;
    if (ack) text(level, busiest[0]);
    add({
      x: now.at_ms / 1000, accepted: rate('accepted'), committed: rate('committed'), dead: rate('dead'),
      pending: now.pending, queued: now.queue?.events, p50: ack?.p50_ms, p95: ack?.p95_ms, p99: ack?.p99_ms,
      sync: now.last_second?.journal_syncs?.p99_ms, copy: now.last_second?.copies?.p99_ms,
    });
    before = now;
  };
  const add = (values) => {
    for (const [name, all] of Object.entries(history)) {
      all.push(values[name] ?? null);
      if (all.length > SPAN_S * 1.5) all.shift();
    }
  };

  /** The figures of the last minutes, which the service has kept. What is known from before a restart of it stays. */
  const begin = (past) => {
    const kept = past.x.length ? history.x.filter((x) => x < past.x[0]).length : history.x.length;
    for (const all of Object.values(history)) all.length = kept;
    if (kept && past.x.length && past.x[0] - history.x.at(-1) > 3) add({ x: past.x[0] - 0.5 });
    for (const [name, all] of Object.entries(history)) all.push(...past[name]);
    before = null;
    draw();
  };

  const DOING = { waiting: 'waits for events', copying: 'writes a batch', isolating: 'isolates bad rows', retrying: 'tries again', halted: 'halted: the database needs you' };
  const show_lanes = (now) => replace(lane_list, (now.lanes?.each ?? []).map((lane, number) => {
    const kind = lane.state === 'halted' ? 'bad' : lane.state === 'retrying' ? 'warn' : 'ok';
    return h('li', { class: kind === 'ok' ? '' : 'failing' },
      h('span', { class: `badge ${kind}` }, h('span', {}, `lane ${number}`)),
      h('span', { class: 'quiet' }, [
        DOING[lane.state] ?? lane.state, lane.events > 0 && plural(lane.events, 'event'),
        lane.since_ms >= 1000 && `for ${duration(lane.since_ms / 1000)}`, plural(lane.batches, 'batch', 'batches'),
      ].filter(Boolean).join(' · ')));
  }));

  const show_tasks = (now) => {
    const failing = now.tasks.filter((task) => task.state !== 'running');
    text(summary, failing.length ? `${count(failing.length)} of ${count(now.tasks.length)} do not run as they should` : `all ${count(now.tasks.length)} run`);
    const order = (task) => (task.state === 'running' ? 1 : 0);
    replace(tasks, [...now.tasks].sort((one, other) => order(one) - order(other)).map((task) => {
      const kind = task.state === 'running' ? 'ok' : task.state === 'failing' ? 'bad' : 'warn';
      const last = task.last_success_ms ? ago(task.last_success_ms) : '';
      return h('li', { class: task.state === 'running' ? '' : 'failing' },
        h('span', { class: `badge ${kind}` }, h('span', {}, task.name)),
        h('span', { class: 'quiet' }, [
          task.state !== 'running' && task.state, task.steps > 0 && task.is_stepping && 'in a step',
          task.steps > 0 && plural(task.steps, 'step'), task.last_step_ms !== null && `last ${ms(task.last_step_ms)}`,
          !task.is_stepping && last, task.critical && 'critical',
          task.restarts > 0 && plural(task.restarts, 'restart'),
        ].filter(Boolean).join(' · ')),
        task.last_error && h('p', { class: task.state === 'running' ? 'quiet' : '' }, `${task.last_error.message} (${ago(task.last_error.at_ms)})`));
    }));
  };

  const show_notices = (now) => {
    const all = [];
    const writer = (name, own) => {
      if (own && own.state !== 'running') all.push(`The ${name} is ${own.state}${own.last_error ? `: ${own.last_error.message}` : ''}.`);
    };
    writer('writer', now.writer);
    writer('writer of dead letters', now.dead_letter_writer);
    if (now.journal && now.journal.state !== 'accepting') all.push(`The journal accepts nothing: ${now.journal.state}.`);
    if (now.journal?.acknowledged_lost) all.push(`The journal lost ${plural(now.journal.acknowledged_lost, 'acknowledged event')}.`);
    if (now.journal?.lost_by_postgres) all.push(`Postgres lost ${plural(now.journal.lost_by_postgres, 'stored event')}.`);
    if (now.housekeeping && now.housekeeping.state !== 'ok') all.push('The deletion of old rows fails.');
    for (const route of now.routes ?? []) {
      if (route.state === 'suspended') all.push(`The route ${route.name} is suspended, and ${plural(route.deferred, 'event')} wait for it${route.error ? `: ${route.error}` : ''}.`);
    }
    for (const task of now.tasks) if (task.state === 'failing') all.push(`The task ${task.name} fails.`);
    replace(notices, all.map((notice) => h('li', {}, notice)));
  };

  const draw = () => {
    const known = (history.x.at(-1) ?? 0) - (history.x[0] ?? 0);
    for (const chart of [rates, pending, acks, writes]) chart.span = Math.min(SPAN_S, Math.max(LEAST_SPAN_S, known));
    const data = (...series) => [history.x, ...series.map((name) => history[name])];
    rates.set(data('accepted', 'committed', 'dead'));
    pending.set(data('pending', 'queued'));
    acks.set(data('p50', 'p95', 'p99'));
    writes.set(data('sync', 'copy'));
  };

  const show = (now) => {
    last_at = Date.now();
    push(now);
    const ledger = now.ledger;
    text(headline, sentence(ledger));
    headline.classList.toggle('bad', Boolean(ledger) && !ledger.balanced);
    const names = { ok: 'Serving', degraded: 'Degraded', starting: 'Starting', overloaded: 'Overloaded', draining: 'Stopping' };
    text(state, names[now.status] ?? now.status);
    dot.className = `dot ${now.status === 'ok' ? 'ok' : now.status === 'degraded' ? 'warn' : 'bad'}`;
    text(facts, `${now.version} · up ${duration(now.uptime_s)} · ${bytes(now.memory.resident_bytes)} · ${plural(now.http.connections, 'connection')} · ${plural(now.realtime.subscribers, 'subscriber')}`);
    if (ledger) {
      text(accepted, count(ledger.accepted));
      PARTS.forEach(([name], at) => {
        text(sums[at], count(ledger[name]));
        band[at].style.flexGrow = ledger[name];
        band[at].hidden = ledger[name] === 0;
      });
    }
    if (now.queue) {
      const share = Math.max(now.queue.events / now.queue.max_events, now.queue.bytes / now.queue.max_bytes);
      queue.set(count(now.queue.events), `of ${compact(now.queue.max_events)} · ${bytes(now.queue.bytes)}`, share);
      const own = now.journal;
      if (own) journal.set(bytes(own.pending_bytes), `pending · ${bytes(own.free_bytes)} free`, own.pending_bytes / Math.max(1, own.pending_bytes + own.free_bytes));
      else journal.set('off', 'DURABILITY=memory', 0);
      lanes.set(`${now.lanes.busy} of ${now.lanes.count}`, now.writer.state === 'running' ? 'busy with a COPY' : now.writer.state);
      if (lanes.extra.childElementCount !== now.lanes.count) replace(lanes.extra, Array.from({ length: now.lanes.count }, () => h('i', { 'aria-hidden': 'true' })));
      [...lanes.extra.children].forEach((lane, at) => { lane.className = at < now.lanes.busy ? 'busy' : ''; });
      const used = now.pool.open - now.pool.idle;
      pool.set(`${used} of ${now.pool.max}`, `connections busy · ${now.pool.waiting ? `${now.pool.waiting} wait` : `${now.pool.open} open`}`, used / now.pool.max);
    }
    const all = Object.entries(now.refused).filter(([, number]) => number > 0);
    text(refused, all.length ? `Refused since the start: ${all.map(([reason, number]) => `${count(number)} ${reason}`).join(', ')}.` : 'No event was refused since the start.');
    show_notices(now);
    show_lanes(now);
    show_tasks(now);
    draw();
    main.dataset.snapshots = String(Number(main.dataset.snapshots ?? 0) + 1);
  };

  const events = new Events('/events?history=true', { history: begin, stats: show }, {
    state: (own) => {
      if (own !== 'lost') return;
      dot.className = 'dot bad';
      text(state, 'No answer. Connecting again');
    },
  });
  const timer = setInterval(() => {
    if (last_at && Date.now() - last_at > 4000) {
      dot.className = 'dot bad';
      text(state, `No figures for ${duration((Date.now() - last_at) / 1000)}. Connecting again`);
    }
  }, 1000);
  return () => {
    clearInterval(timer);
    events.close();
    for (const chart of [rates, pending, acks, writes]) chart.remove();
  };
}
