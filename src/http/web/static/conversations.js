// Conversations of the caller: listed, searched, opened, followed live.
import { Events, page, request } from './api.js';
import { busy, field, h, replace, text, time, turns, when } from './dom.js';

export async function open(main, [id]) {
  const search = h('input', { type: 'search', placeholder: 'Titles and messages' });
  const list = h('ul', { class: 'names' });
  const content = h('div', { class: 'grow' });
  const more = h('button', { type: 'button', hidden: true }, 'Show more');
  let next = null;
  let leave = () => {};
  const turn = turns();
  const load = async (url) => {
    const is_newest = turn();
    const found = await page(url ?? `/api/conversations?limit=50${search.value.trim() ? `&q=${encodeURIComponent(search.value.trim())}` : ''}`);
    if (!is_newest()) return;
    next = found.next;
    more.hidden = !next;
    const items = found.items.map((one) => h('li', {}, h('a', { href: `/#/conversations/${one.id}`, 'aria-current': one.id === id ? 'page' : null }, one.title, ' ', h('small', {}, when(one.updated_at)))));
    if (url) list.append(...items);
    else replace(list, items.length ? items : h('li', { class: 'quiet' }, search.value.trim() ? 'Nothing was found.' : 'No conversation yet.'));
  };
  search.addEventListener('change', () => load().catch((error) => replace(list, h('li', { class: 'error' }, error.message))));
  more.addEventListener('click', () => busy(more, () => load(next)));
  replace(main, h('section', { class: 'hero' }, h('h1', {}, 'Conversations'), h('p', { class: 'lead' }, 'Ordered messages of a user, your own alone. An open one shows each message, and each piece of it, as it is written.')),
    h('div', { class: 'browse' }, h('nav', { class: 'panel', 'aria-label': 'Conversations' }, field('Search', search), list, more), content));
  await load();
  if (id) await show();
  else replace(content, h('p', { class: 'empty' }, 'Choose a conversation.'));
  return () => leave();

  async function show() {
    const path = `/api/conversations/${encodeURIComponent(id)}`;
    let conversation;
    try {
      conversation = await (await request('GET', path)).json();
    } catch (error) {
      replace(content, h('p', { class: 'error' }, error.message));
      return;
    }
    const title = h('h2', {}, conversation.title);
    const state = h('span', { class: 'badge' }, 'opening');
    const log = h('ol', { class: 'messages', 'aria-label': 'Messages' });
    const shown = new Map();
    const words = (value) => (typeof value === 'string' ? value : value === null || value === undefined ? '' : JSON.stringify(value, null, 2));
    const add = (message) => {
      const known = shown.get(message.id);
      if (known) known.remove();
      const item = h('li', { class: `message ${message.role}` },
        h('p', { class: 'row between' }, h('b', {}, message.role), h('small', {}, message.done === false ? 'is being written' : time(message.timestamp))),
        h('div', { class: 'text' }, words(message.content)));
      shown.set(message.id, item);
      log.append(item);
    };
    const events = new Events(`${path}/messages?live=sse`, {
      message: add,
      append: (piece) => {
        const item = shown.get(piece.id);
        if (!item) return;
        const part = item.querySelector('.text');
        // In characters, as the service counts.
        text(part, [...part.textContent].slice(0, piece.at).join('') + piece.content);
        if (piece.done) text(item.querySelector('small'), 'now');
      },
      update: (changed) => text(title, changed.title),
      delete: () => { text(state, 'deleted'); events.close(); },
      reset: () => { shown.clear(); replace(log); },
    }, { state: (own) => { text(state, own === 'live' ? 'live' : 'connecting again'); state.className = `badge ${own === 'live' ? 'ok' : 'warn'}`; } });
    leave = () => events.close();
    replace(content, h('div', { class: 'stack' }, h('div', { class: 'row between' }, title, state), log));
  }
}
