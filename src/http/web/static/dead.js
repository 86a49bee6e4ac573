// Dead letters and the errors of routes: browsed, corrected, redriven, discarded.
import { get, page, post, raw, refusal, request } from './api.js';
import { busy, bytes, confirm, count, field, h, options, plural, pretty, replace, say, time, turns, when } from './dom.js';
import { may } from './session.js';

const REASONS = [['', 'Any reason'], ['rejected', 'rejected by Postgres'], ['dropped_by_trigger', 'dropped by a trigger'], ['overload', 'overload'], ['route', 'refused by a route']];

export async function open(main, [id]) {
  const can_write = may('deadletters:write');
  const reason = options(h('select'), REASONS, '');
  const sqlstate = h('input', { maxlength: '5', placeholder: '23505', spellcheck: 'false', autocapitalize: 'characters', size: '6' });
  const route = h('input', { placeholder: 'any', spellcheck: 'false' });
  const since = options(h('select'), [['', 'Any time'], ['900', 'last 15 minutes'], ['3600', 'last hour'], ['86400', 'last day'], ['604800', 'last week']], '');
  const rows = h('tbody');
  const head = h('p', { class: 'quiet', role: 'status' });
  const more = h('button', { type: 'button', hidden: true }, 'Show more');
  const detail = h('div', { class: 'panel', tabindex: '-1' });
  const progress = h('div', { class: 'progress', hidden: true }, h('span'));
  const all = h('input', { type: 'checkbox', 'aria-label': 'Select all that are shown' });
  const redrive = h('button', { type: 'button', class: 'primary' }, 'Redrive');
  const discard = h('button', { type: 'button', class: 'danger' }, 'Discard');
  let letters = [];
  let next = null;
  // `route:NAME` in the place of an id: the errors of that route.
  if (id?.startsWith('route:')) {
    reason.value = 'route';
    route.value = id.slice(6);
    id = undefined;
  }
  let opened = id ?? null;
  const chosen = new Set();
  const key = (letter) => `${letter.id}/${letter.route ?? ''}`;

  // A filter by SQLSTATE names the errors of routes; the errors of rejected events begin with theirs.
  const query = () => {
    const parts = new URLSearchParams({ limit: '50' });
    if (reason.value) parts.set('reason', reason.value);
    if (route.value.trim()) parts.set('route', route.value.trim());
    if (sqlstate.value.trim() && is_of_routes()) parts.set('sqlstate', sqlstate.value.trim().toUpperCase());
    if (since.value) parts.set('since', new Date(Date.now() - Number(since.value) * 1000).toISOString());
    return `/api/v1/dead-letters?${parts}`;
  };
  const is_of_routes = () => reason.value === 'route' || (reason.value === '' && route.value.trim() !== '');
  const state_of = (letter) => letter.sqlstate ?? letter.error?.match(/\b([0-9A-Z]{5})\b/)?.[1] ?? '';
  const is_wanted = (letter) => !sqlstate.value.trim() || state_of(letter) === sqlstate.value.trim().toUpperCase();

  const turn = turns();
  const list = async (path, before) => {
    const is_newest = turn();
    const found = [...before];
    let at = path;
    // The errors of rejected events have no index by SQLSTATE: the pages are read until some of them fit.
    for (let pages = 0; at && pages < 20 && (pages === 0 || (sqlstate.value.trim() && found.length < before.length + 50)); pages += 1) {
      const further = await page(at);
      found.push(...further.items.filter(is_wanted));
      at = further.next;
    }
    if (!is_newest()) return;
    letters = found;
    next = at;
    show_rows();
  };

  const load = async () => {
    chosen.clear();
    head.textContent = 'Reading…';
    try {
      await list(query(), []);
    } catch (error) {
      letters = [];
      next = null;
      show_rows();
      head.textContent = error.message;
    }
  };

  const show_rows = () => {
    head.textContent = letters.length === 0
      ? (reason.value || sqlstate.value || route.value || since.value ? 'No dead letter fits this filter.' : 'There are no dead letters: every accepted event that is not pending is in Postgres.')
      : `${plural(letters.length, 'dead letter')}${next ? ', and more' : ''}, newest first.`;
    more.hidden = !next;
    replace(rows, letters.map((letter) => {
      const own = key(letter);
      const box = can_write && h('input', {
        type: 'checkbox', checked: chosen.has(own), 'aria-label': `Select ${letter.trace_id}`,
        onchange: (event) => { chosen[event.target.checked ? 'add' : 'delete'](own); show_actions(); },
      });
      return h('tr', { class: letter.id === opened ? 'open' : '' },
        h('td', {}, box),
        h('td', {}, when(letter.failed_at)),
        h('td', {}, h('button', { type: 'button', class: 'link', onclick: () => show(letter) }, letter.reason === 'route' ? `route ${letter.route}` : letter.reason.replaceAll('_', ' '))),
        h('td', { class: 'mono' }, state_of(letter)),
        h('td', { class: 'wide' }, letter.error.length > 150 ? `${letter.error.slice(0, 150)}…` : letter.error),
        h('td', { class: 'number' }, count(letter.attempts)),
        h('td', { class: 'number' }, bytes(letter.bytes)));
    }));
    show_actions();
  };

  const selected = () => letters.filter((letter) => chosen.has(key(letter)));
  const show_actions = () => {
    const number = selected().length;
    redrive.textContent = number ? `Redrive ${count(number)}` : 'Redrive all that fit';
    redrive.disabled = letters.length === 0;
    discard.textContent = number ? `Discard ${count(number)}` : 'Discard';
    discard.disabled = number === 0;
    all.checked = number > 0 && number === letters.length;
  };

  const step = (share) => {
    progress.hidden = share === null;
    if (share !== null) progress.firstChild.style.width = `${Math.round(share * 100)}%`;
  };

  /** Redrives dead letters by id, and the errors of each route by that route. */
  const redrive_some = async (some) => {
    const groups = new Map();
    for (const letter of some) {
      const own = letter.route ?? '';
      groups.set(own, [...(groups.get(own) ?? []), letter.id]);
    }
    const sum = { redriven: 0, refused: 0, missing: 0 };
    let done = 0;
    for (const [of, ids] of groups) {
      for (let at = 0; at < ids.length; at += 100) {
        const part = ids.slice(at, at + 100);
        const result = await post('/api/v1/dead-letters/redrive', of ? { route: of, ids: part } : { ids: part });
        for (const name of Object.keys(sum)) sum[name] += result[name] ?? 0;
        done += part.length;
        step(done / some.length);
      }
    }
    return sum;
  };

  /** Redrives everything that the filter names, in requests of the service's own size. */
  const redrive_filtered = async () => {
    if (sqlstate.value.trim() && !is_of_routes()) return redrive_some(letters);
    const sum = { redriven: 0, refused: 0, missing: 0 };
    const bodies = [];
    if (is_of_routes()) {
      const names = new Set(letters.map((letter) => letter.route));
      for (const name of names) bodies.push({ route: name, ...(sqlstate.value.trim() ? { sqlstate: sqlstate.value.trim().toUpperCase() } : {}) });
    } else {
      const filter = {};
      if (reason.value) filter.reason = reason.value;
      if (since.value) filter.since = new Date(Date.now() - Number(since.value) * 1000).toISOString();
      bodies.push(Object.keys(filter).length ? filter : { all: true });
    }
    for (const [at, body] of bodies.entries()) {
      for (;;) {
        const result = await post('/api/v1/dead-letters/redrive', body);
        for (const name of Object.keys(sum)) sum[name] += result[name] ?? 0;
        step((at + 0.5) / bodies.length);
        // What is refused stays, and would be tried again for ever.
        if (!result.more || result.redriven === 0) break;
      }
    }
    return sum;
  };

  const report = ({ redriven, refused, missing }) => {
    const parts = [`${plural(redriven, 'event')} stored`];
    if (refused) parts.push(`${count(refused)} refused again`);
    if (missing) parts.push(`${count(missing)} no longer stored`);
    say(`${parts.join(', ')}.`, refused && !redriven ? 'bad' : 'ok');
  };

  redrive.addEventListener('click', async () => {
    const some = selected();
    const what = some.length ? plural(some.length, 'dead letter') : 'every dead letter that the filter names';
    if (!(await confirm('Redrive?', `Postgres is given ${what} again. Each is stored once, with its id; what is refused again stays here.`, 'Redrive'))) return;
    await busy(redrive, async () => {
      step(0.02);
      try {
        report(some.length ? await redrive_some(some) : await redrive_filtered());
      } finally {
        step(null);
      }
      await load();
    });
    show_actions();
  });

  discard.addEventListener('click', async () => {
    const some = selected();
    if (!(await confirm('Discard?', `${plural(some.length, 'dead letter')} will be given up, and counted as discarded. This cannot be undone. The error of a route is forgotten, and its event stays stored.`, 'Discard', 'danger'))) return;
    await busy(discard, async () => {
      let done = 0;
      try {
        for (const letter of some) {
          await request('DELETE', `/api/v1/dead-letters/${letter.id}`);
          step((done += 1) / some.length);
        }
      } finally {
        step(null);
        await load();
      }
      say(`${plural(done, 'dead letter')} discarded.`);
    });
    show_actions();
  });
  all.addEventListener('change', () => {
    chosen.clear();
    if (all.checked) for (const letter of letters) chosen.add(key(letter));
    show_rows();
  });
  more.addEventListener('click', () => busy(more, () => list(next, letters)));
  for (const control of [reason, since]) control.addEventListener('change', load);
  for (const control of [sqlstate, route]) control.addEventListener('change', load);

  const show = async (letter) => {
    opened = letter.id;
    history.replaceState(null, '', `/#/dead-letters/${letter.id}`);
    show_rows();
    replace(detail, h('p', { class: 'quiet' }, 'Reading…'));
    const answer = await raw('GET', `/api/v1/dead-letters/${letter.id}`);
    if (!answer.ok) {
      replace(detail, h('p', { class: 'error' }, (await refusal(answer)).message));
      return;
    }
    let tag = answer.headers.get('etag');
    const whole = await answer.json();
    const original = whole.payload !== undefined ? pretty(whole.payload) : whole.body ?? '';
    const is_editable = can_write && (whole.payload !== undefined || whole.body_encoding === 'utf-8');
    const editor = h('textarea', { class: 'code', rows: String(Math.min(22, Math.max(6, original.split('\n').length + 1))), spellcheck: 'false', readonly: !is_editable, 'aria-label': 'Payload', value: original });
    const error = h('p', { class: 'error', role: 'alert' });
    const correct = async () => {
      error.textContent = '';
      try {
        JSON.parse(editor.value);
      } catch (problem) {
        error.textContent = `The payload is no JSON: ${problem.message}`;
        return false;
      }
      if (editor.value === original) return true;
      const changed = await raw('PATCH', `/api/v1/dead-letters/${letter.id}`, {
        // As it was written, so that all digits of a number stay.
        body: `{"payload":${editor.value}}`, headers: { 'content-type': 'application/json', 'if-match': tag },
      });
      if (!changed.ok) {
        const refused = await refusal(changed);
        error.textContent = changed.status === 412 ? 'Somebody else has corrected it meanwhile. Open it again to see their text.' : refused.message;
        return false;
      }
      tag = changed.headers.get('etag');
      return true;
    };
    const save = h('button', { type: 'button', onclick: () => busy(save, async () => { if (await correct()) say('The payload is corrected. Redrive it to store it.'); }) }, 'Save');
    const run = h('button', {
      type: 'button', class: 'primary',
      onclick: async () => {
        if (!(await confirm('Redrive this one?', 'The text is saved if you changed it, and Postgres is given the event again.', 'Redrive'))) return;
        await busy(run, async () => {
          if (!(await correct())) return;
          report(await redrive_some([letter]));
          step(null);
          await load();
          const still = letters.find((one) => key(one) === key(letter));
          if (still) await show(still);
          else replace(detail, h('p', { class: 'quiet' }, 'It is stored. Choose another one.'));
        });
      },
    }, 'Redrive');
    replace(detail,
      h('div', { class: 'row between' }, h('h2', {}, whole.reason === 'route' ? `Refused by the route ${whole.route}` : `${whole.reason.replaceAll('_', ' ')}`), h('code', { class: 'quiet' }, whole.id)),
      h('div', { class: 'halves' },
        h('div', {}, h('h3', {}, whole.body_encoding === 'base64' ? 'Body in base64' : 'Payload'), editor),
        h('div', {}, h('h3', {}, 'Error'), h('pre', {}, whole.error),
          h('dl', { class: 'detail' },
            [['Trace id', whole.trace_id], ['SQLSTATE', state_of(whole) || '–'], ['Received', time(whole.received_at)], ['Failed', time(whole.failed_at)], ['Attempts', count(whole.attempts)], ['Size', bytes(whole.bytes)], ['Content type', whole.content_type ?? '–']]
              .map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])))),
      error,
      can_write && h('div', { class: 'row' }, run, is_editable && save, is_editable && h('button', { type: 'button', onclick: () => { editor.value = original; } }, 'Undo')));
    detail.focus({ preventScroll: true });
    detail.scrollIntoView({ block: 'nearest' });
  };

  replace(main,
    h('section', { class: 'hero' }, h('h1', {}, 'Dead letters'), h('p', { class: 'lead' }, 'Accepted events that Postgres did not take, and events that a route refused. Remove the cause or correct the payload, then redrive.')),
    h('section', { 'aria-label': 'Filter', class: 'fields' }, field('Reason', reason), field('SQLSTATE', sqlstate), field('Route', route), field('Failed', since)),
    h('section', { class: 'panel-list', 'aria-label': 'List' },
      h('div', { class: 'row between' }, head, can_write && h('div', { class: 'row' }, discard, redrive)), progress,
      h('div', { class: 'scroll tall', tabindex: '0', role: 'region', 'aria-label': 'Dead letters' },
        h('table', {}, h('caption', { class: 'hidden' }, 'Dead letters'), h('thead', {}, h('tr', {}, h('td', {}, can_write && all),
          ['Failed', 'Reason', 'SQLSTATE', 'Error', ['Attempts', 'number'], ['Size', 'number']].map((name) => h('th', { scope: 'col', class: Array.isArray(name) ? name[1] : null }, Array.isArray(name) ? name[0] : name)))), rows)),
      more),
    detail);
  replace(detail, h('p', { class: 'quiet' }, 'Choose a dead letter to see its payload and its error side by side.'));
  await load();
  if (id) {
    const found = letters.find((letter) => letter.id === id) ?? (await get(`/api/v1/dead-letters/${id}`).catch(() => null));
    if (found) await show(found);
  }
}
