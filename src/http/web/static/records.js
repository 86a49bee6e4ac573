// Collections and their records: listed, opened, followed live.
import { Events, get, page, request } from './api.js';
import { busy, compact, count, field, h, options, plural, pretty, replace, text, turns, when } from './dom.js';
import { may } from './session.js';

export async function open(main, [collection]) {
  const list = h('ul', { class: 'names' });
  const content = h('div', { class: 'grow' });
  let leave = () => {};
  replace(main, h('section', { class: 'hero' }, h('h1', {}, 'Records'), h('p', { class: 'lead' }, 'JSON objects in collections, and their changes as they are committed.')),
    h('div', { class: 'browse' }, h('nav', { class: 'panel', 'aria-label': 'Collections' }, list), content));
  const collections = await get('/collections');
  const name = collection ?? collections[0]?.name;
  replace(list, collections.length
    ? collections.map((one) => h('li', {}, h('a', { href: `/#/records/${one.name}`, 'aria-current': one.name === name ? 'page' : null }, one.name, ' ', h('small', {}, one.records === null ? '' : compact(one.records)))))
    : h('li', { class: 'quiet' }, 'No collection yet. Its first record makes it.'));
  if (!name) {
    replace(content, h('p', { class: 'empty' }, 'Nothing to show yet.'));
    return undefined;
  }
  show_collection();
  return () => leave();

  function show_collection() {
    const filter = h('input', { spellcheck: 'false', placeholder: 'state = "open" && n > 3' });
    const sort = h('input', { spellcheck: 'false', value: '-created' });
    const limit = options(h('select'), ['20', '50', '200'], '20');
    const head = h('p', { class: 'quiet', role: 'status' });
    const rows = h('tbody');
    const columns = h('tr');
    const more = h('button', { type: 'button', hidden: true }, 'Show more');
    const detail = h('div', { class: 'panel', hidden: true });
    const log = h('ol', { class: 'log', 'aria-label': 'Changes' });
    const follow = h('button', { type: 'button', 'aria-pressed': 'false' }, 'Follow live');
    const path = `/api/stress/records/${encodeURIComponent(name)}`;
    let records = [];
    let next = null;
    let position = null;
    let events = null;

    const turn = turns();
    const load = async (url) => {
      const is_newest = turn();
      const query = new URLSearchParams({ limit: limit.value, count: 'exact' });
      if (filter.value.trim()) query.set('filter', filter.value.trim());
      if (sort.value.trim()) query.set('sortBy', sort.value.trim());
      try {
        const found = await page(url ?? `${path}?${query}`);
        if (!is_newest()) return;
        records = url ? [...records, ...found.items] : found.items;
        next = found.next;
        position ??= found.position;
        text(head, found.total === null ? plural(records.length, 'record') : `${count(records.length)} of ${plural(Number(found.total), 'record')}`);
        show_rows();
      } catch (error) {
        records = [];
        show_rows();
        text(head, error.message);
      }
    };
    const shown = (value) => (value === null || value === undefined ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value));
    const show_rows = () => {
      const members = [...new Set(records.flatMap((record) => Object.keys(record)))].filter((member) => !['id', 'created', 'updated'].includes(member)).slice(0, 5);
      replace(columns, ['Id', ...members, 'Updated'].map((member) => h('th', { scope: 'col' }, member)));
      replace(rows, records.map((record) => h('tr', { 'data-id': record.id },
        h('td', {}, h('button', { type: 'button', class: 'link mono', onclick: () => show(record) }, record.id)),
        members.map((member) => { const value = shown(record[member]); return h('td', {}, value.length > 60 ? `${value.slice(0, 60)}…` : value); }),
        h('td', {}, when(record.updated)))));
      more.hidden = !next;
    };
    const show = async ({ id }) => {
      detail.hidden = false;
      const answer = await request('GET', `${path}/${id}`).catch((error) => { replace(detail, h('p', { class: 'error' }, error.message)); });
      if (!answer) return;
      replace(detail, h('div', { class: 'row between' }, h('h2', { class: 'mono' }, id), h('span', { class: 'quiet' }, `version ${answer.headers.get('etag')}`)), h('pre', { tabindex: '0', 'aria-label': 'Record' }, pretty(await answer.json())));
      detail.scrollIntoView({ block: 'nearest' });
    };
    const toggle = () => {
      if (events) {
        events.close();
        events = null;
      } else {
        const topic = `records/${encodeURIComponent(name)}`;
        events = new Events((from) => `/api/events/stream?topics=${topic}${from || position ? `&from=${encodeURIComponent(from ?? position)}` : ''}`, {
          change: (change) => {
            const line = h('li', {}, h('span', { class: `badge ${{ create: 'ok', delete: 'bad' }[change.action] ?? ''}` }, change.action), h('code', {}, change.key), h('small', {}, JSON.stringify(change.record)?.slice(0, 140)));
            log.prepend(line);
            while (log.childElementCount > 50) log.lastChild.remove();
            const at = records.findIndex((record) => record.id === change.key);
            if (change.action === 'delete') records = records.filter((record) => record.id !== change.key);
            else if (at >= 0) records[at] = change.record;
            else if (!filter.value.trim()) records = [change.record, ...records].slice(0, 500);
            show_rows();
          },
          reset: () => load(),
        });
      }
      follow.textContent = events ? 'Stop following' : 'Follow live';
      follow.setAttribute('aria-pressed', String(Boolean(events)));
    };
    follow.addEventListener('click', toggle);
    more.addEventListener('click', () => busy(more, () => load(next)));
    for (const control of [filter, sort, limit]) control.addEventListener('change', () => load());
    leave = () => events?.close();
    replace(content,
      h('div', { class: 'stack' },
        h('div', { class: 'fields' }, field('Filter', filter), field('Sort by', sort), field('A page', limit)),
        h('div', { class: 'row between' }, head, may('records:read') && follow),
        h('div', { class: 'scroll tall', tabindex: '0', role: 'region', 'aria-label': `Records of ${name}` }, h('table', {}, h('caption', { class: 'hidden' }, `Records of ${name}`), h('thead', {}, columns), rows)),
        h('div', {}, more), log, detail));
    load();
  }
}
