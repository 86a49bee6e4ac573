// Routes: what each writes and refuses, a new one checked before it is enabled, a table suggested from recent events.
import { get, post, raw, refusal, request } from './api.js';
import { busy, confirm, count, duration, field, h, plural, replace, say, table, when } from './dom.js';

export async function open(main, [name]) {
  const list = h('div');
  const side = h('div', { class: 'panel' });
  const state_badge = (route) => h('span', { class: `badge ${{ live: 'ok', suspended: 'bad', disabled: '' }[route.state]}` }, route.state);
  let routes = [];

  const load = async () => {
    routes = await get('/api/v1/routes');
    if (routes.length === 0) {
      replace(list, h('p', { class: 'empty' }, 'There are no routes yet. A route is one line of SQL that writes each batch of events into a table of yours, in the transaction that stores them.'));
      return;
    }
    replace(list, table('Routes', [['Route'], ['State'], ['Into'], ['Rows written', 'number'], ['Refused now', 'number'], ['Deferred', 'number'], ['A batch', 'number']], routes.map((route) => [
      h('button', { type: 'button', class: 'link', onclick: () => show(route) }, route.name),
      state_badge(route), h('code', {}, route.into), count(route.rows),
      route.errors > 0 ? h('a', { href: `/#/dead-letters/route:${route.name}` }, count(route.errors)) : '0',
      count(route.deferred), route.batches ? `${((route.seconds * 1000) / route.batches).toFixed(2)} ms` : '–',
    ]), { is_titled: false }));
  };

  const act = async (button, route, action, title, message) => {
    if (!(await confirm(title, message, button.textContent, action === 'DELETE' ? 'danger' : ''))) return;
    await busy(button, async () => {
      const headers = { 'if-match': `"${route.version}"` };
      if (action === 'DELETE') await request('DELETE', `/api/v1/routes/${route.name}`, { headers });
      else await request('POST', `/api/v1/routes/${route.name}/${action}`, { headers });
      say(action === 'DELETE' ? `The route ${route.name} is removed. Its table stays.` : `The route ${route.name}: ${action}d.`.replace('backfilld', 'backfill begun'));
      await load();
      const still = routes.find((one) => one.name === route.name);
      if (still) show(still);
      else show_new();
    });
  };

  const show = (route) => {
    history.replaceState(null, '', `/#/routes/${route.name}`);
    const button = (label, action, title, message, kind = '') => {
      const own = h('button', { type: 'button', class: kind, onclick: () => act(own, route, action, title, message) }, label);
      return own;
    };
    replace(side,
      h('div', { class: 'row between' }, h('h2', {}, route.name), state_badge(route)),
      route.error && route.state === 'suspended' && h('p', { class: 'error' }, `Suspended: ${route.sqlstate} ${route.error}`),
      h('pre', {}, route.sql),
      h('dl', { class: 'detail' }, [
        ['Into', route.into], ['Key', route.key.join(', ') || 'none: every event adds a row'], ['On conflict', route.on_conflict ?? '–'], ['Role', route.role],
        ['Rows written', count(route.rows)], ['Refused', `${count(route.refused)}, ${count(route.errors)} of them still`], ['Deferred', count(route.deferred)],
        ['Batches', count(route.batches)], ['Time', duration(route.seconds)], ['Strict', route.strict ? 'yes: an event that it refuses is not stored' : 'no'],
        ['Backfill', route.backfill ? `${plural(route.backfill.events, 'event')}${route.backfill.done ? ', done' : ' so far'}` : '–'], ['Changed', when(route.updated_at)],
      ].map(([label, value]) => [h('dt', {}, label), h('dd', {}, value)])),
      h('div', { class: 'row' },
        route.state === 'live'
          ? button('Disable', 'disable', 'Disable the route?', 'Events pass it from now on, and nothing is kept for it.')
          : button('Enable', 'enable', 'Enable the route?', 'Events are routed again, deferred ones first.', 'primary'),
        h('button', { type: 'button', onclick: () => show_new(route) }, 'Edit'),
        route.errors > 0 && h('button', { type: 'button', onclick: () => redrive(route) }, `Redrive ${plural(route.errors, 'error')}`),
        button('Remove', 'DELETE', 'Remove the route?', 'The route and its errors are removed. Its table stays, with all rows.', 'danger'),
        h('button', { type: 'button', onclick: () => show_new() }, 'New route')));
  };

  const redrive = async (route) => {
    if (!(await confirm('Redrive?', `The route ${route.name} runs again over the ${plural(route.errors, 'event')} that it refused.`, 'Redrive'))) return;
    const sum = { redriven: 0, refused: 0 };
    try {
      for (;;) {
        const result = await post('/api/v1/dead-letters/redrive', { route: route.name });
        sum.redriven += result.redriven;
        sum.refused += result.refused;
        if (!result.more || result.redriven === 0) break;
      }
      say(`${plural(sum.redriven, 'event')} routed, ${count(sum.refused)} refused again.`, sum.redriven || !sum.refused ? 'ok' : 'bad');
    } catch (error) {
      say(error.message, 'bad');
    }
    await load();
    show(routes.find((one) => one.name === route.name) ?? route);
  };

  /** The form of a new route, or of another definition of `old`. */
  const show_new = (old) => {
    history.replaceState(null, '', '/#/routes');
    const input = (value = '', props = {}) => h('input', { spellcheck: 'false', autocomplete: 'off', value, ...props });
    const own_name = input(old?.name, { required: true, pattern: '[a-z0-9_\\-]+', placeholder: 'signups', readonly: Boolean(old) });
    const into = input(old?.into, { required: true, placeholder: 'app.signups' });
    const keys = input(old?.key.join(', '), { placeholder: 'user_id' });
    const conflict = input(old?.on_conflict ?? '', { placeholder: 'do nothing' });
    const condition = input('', { placeholder: 'payload->>\'event\' = \'signup\'' });
    const sql = h('textarea', { class: 'code', rows: '7', spellcheck: 'false', required: true, 'aria-label': 'SQL', placeholder: 'select payload->>\'user\' as user_id, received_at from batch where payload->>\'event\' = \'signup\'', value: old?.sql ?? '' });
    const strict = h('input', { type: 'checkbox', checked: old?.strict });
    const serial = h('input', { type: 'checkbox', checked: old?.serial });
    const backfill = h('input', { type: 'checkbox' });
    const result = h('div', { role: 'status' });
    const error = h('p', { class: 'error', role: 'alert' });
    const definition = () => ({
      into: into.value.trim(), sql: sql.value, key: keys.value.split(',').map((part) => part.trim()).filter(Boolean),
      ...(conflict.value.trim() ? { on_conflict: conflict.value.trim() } : {}), ...(old ? { role: old.role } : {}), strict: strict.checked, serial: serial.checked,
    });
    let checked = '';
    const guard = async (button, work) => {
      error.textContent = '';
      await busy(button, async () => {
        try {
          await work();
        } catch (refused) {
          error.textContent = refused.message;
        }
      });
      enable.disabled = checked !== JSON.stringify(definition());
    };
    const suggest = h('button', {
      type: 'button', onclick: () => guard(suggest, async () => {
        const found = await post('/api/v1/routes/suggest', { into: into.value.trim(), key: definition().key, ...(condition.value.trim() ? { where: condition.value.trim() } : {}) });
        sql.value = found.sql;
        replace(result,
          h('p', {}, `${plural(found.events, 'event')} of the newest ${count(found.read)} fit. Create this table first, then check the route:`),
          h('pre', {}, found.create_table),
          table('Columns', [['Member'], ['Column'], ['Type'], ['Null'], ['Events', 'number']], found.columns.map((column) => [column.member, column.name, column.type, column.nullable ? 'yes' : 'no', count(column.events)])));
      }),
    }, 'Suggest a table');
    const check = h('button', {
      type: 'button', class: 'primary', onclick: () => guard(check, async () => {
        const own = definition();
        const found = await post('/api/v1/routes/check', { ...own, newest: 1000 });
        checked = found.suspends ? '' : JSON.stringify(own);
        replace(result,
          h('p', { class: found.suspends ? 'error' : '' }, found.suspends
            ? `It would be suspended: ${found.suspends}`
            : `Of the newest ${plural(found.events, 'event')}: ${plural(found.rows, 'row')} would be written, ${plural(found.refused, 'event')} refused. It takes ${(found.share * 100).toFixed(0)} % of the time that Postgres needs to store them. Nothing was changed.`),
          found.notes.map((note) => h('p', { class: 'quiet' }, note)),
          found.plan.length > 0 && h('details', {}, h('summary', {}, 'The plan of its insert'), h('pre', { tabindex: '0', 'aria-label': 'Plan' }, found.plan.join('\n'))),
          found.errors.length > 0 && table('Errors', [['SQLSTATE'], ['Error', 'wide'], ['Events', 'number']], found.errors.map((one) => [h('code', {}, one.sqlstate), one.error, count(one.events)])));
      }),
    }, 'Check');
    const enable = h('button', { type: 'button', disabled: true, onclick: () => guard(enable, async () => {
      const body = { ...definition(), ...(old ? {} : { enabled: true, backfill: backfill.checked }) };
      const answer = await raw('PUT', `/api/v1/routes/${encodeURIComponent(own_name.value.trim())}`, { json: body, headers: old ? { 'if-match': `"${old.version}"` } : {} });
      if (!answer.ok) throw await refusal(answer);
      const made = await answer.json();
      say(old ? `The route ${made.name} has another definition.` : `The route ${made.name} is enabled.`);
      await load();
      show(made);
    }) }, old ? 'Replace the definition' : 'Enable');
    const form = h('form', { class: 'panel-form', onsubmit: (event) => event.preventDefault(), oninput: () => { enable.disabled = checked !== JSON.stringify(definition()) || !own_name.value; } },
      h('div', { class: 'fields' }, field('Name', own_name), field('Into', into, 'a table of yours, with its schema'), field('Key', keys, 'of two events with one key the newer wins'), field('On conflict', conflict)),
      h('div', { class: 'fields' }, field('Events', condition, 'a condition, for the suggestion')),
      field('SQL', sql, 'one select over batch, which has the columns of requests'),
      h('div', { class: 'row' }, h('label', { class: 'check' }, strict, 'strict'), h('label', { class: 'check' }, serial, 'serial'), !old && h('label', { class: 'check' }, backfill, 'backfill stored events')),
      h('div', { class: 'row' }, check, enable, suggest), error, result);
    replace(side, h('h2', {}, old ? `Another definition of ${old.name}` : 'New route'), h('p', { class: 'quiet' }, 'Check it against recent events first: a route is enabled only after a check of the same text.'), form);
  };

  replace(main, h('section', { class: 'hero' }, h('h1', {}, 'Routes'), h('p', { class: 'lead' }, 'Your own tables, written by a line of SQL over each batch, in the transaction that stores the events.')), list, side);
  await load();
  const found = routes.find((route) => route.name === name);
  if (found) show(found);
  else show_new();
  const timer = setInterval(() => list.contains(document.activeElement) || load().catch(() => {}), 5000);
  return () => clearInterval(timer);
}
