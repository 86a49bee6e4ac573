// Durable Streams: listed by path, opened, followed live.
import { Events, get, raw, refusal } from './api.js';
import { busy, bytes, field, h, plural, pretty, replace, text, time, turns } from './dom.js';

const encoded = (path) => path.split('/').map(encodeURIComponent).join('/');

export async function open(main, path_parts) {
  const prefix = h('input', { spellcheck: 'false', placeholder: 'chat/' });
  const list = h('ul', { class: 'names' });
  const content = h('div', { class: 'grow' });
  const more = h('button', { type: 'button', hidden: true }, 'Show more');
  const chosen = path_parts.join('/');
  let next = null;
  let leave = () => {};
  const turn = turns();
  const load = async (after) => {
    const is_newest = turn();
    const query = new URLSearchParams({ prefix: prefix.value });
    if (after) query.set('after', after);
    const found = await get(`/streams?${query}`);
    if (!is_newest()) return;
    next = found.next;
    more.hidden = !next;
    const items = found.streams.map((stream) => h('li', {}, h('a', { href: `/#/streams/${encoded(stream.path)}`, 'aria-current': stream.path === chosen ? 'page' : null }, stream.path, ' ', h('small', {}, bytes(stream.tail)))));
    if (after) list.append(...items);
    else replace(list, items.length ? items : h('li', { class: 'quiet' }, prefix.value ? 'No stream begins like this.' : 'No stream yet.'));
  };
  prefix.addEventListener('change', () => load());
  more.addEventListener('click', () => busy(more, () => load(next)));
  replace(main, h('section', { class: 'hero' }, h('h1', {}, 'Streams'), h('p', { class: 'lead' }, 'Append-only streams of bytes or JSON messages, read from any offset and followed at their end.')),
    h('div', { class: 'browse' }, h('nav', { class: 'panel', 'aria-label': 'Streams' }, field('Path begins with', prefix), list, more), content));
  await load();
  if (chosen) await show();
  else replace(content, h('p', { class: 'empty' }, 'Choose a stream, or create one: PUT /v1/stream/chat/1.'));
  return () => leave();

  async function show() {
    const url = `/v1/stream/${encoded(chosen)}`;
    const state = await raw('HEAD', url);
    if (!state.ok) {
      replace(content, h('p', { class: 'error' }, state.status === 404 ? 'There is no such stream.' : `The service answered ${state.status}.`));
      return;
    }
    const header = (name) => state.headers.get(name);
    const type = header('content-type') ?? '';
    const is_json = type.startsWith('application/json');
    const log = h('ol', { class: 'log long', 'aria-label': 'Messages', tabindex: '0' });
    const status = h('p', { class: 'quiet', role: 'status' });
    const follow = h('button', { type: 'button', 'aria-pressed': 'false' }, 'Follow live');
    const older = h('button', { type: 'button' }, 'Read on');
    let offset = '-1';
    let messages = 0;
    let events = null;
    const add = (value) => {
      messages += 1;
      log.append(h('li', {}, h('pre', {}, value)));
      while (log.childElementCount > 1000) log.firstChild.remove();
      log.scrollTop = log.scrollHeight;
      text(status, `${plural(messages, is_json ? 'message' : 'part')} read, up to ${offset}`);
    };
    const take = (body) => {
      if (!is_json) return body && add(body);
      return JSON.parse(body || '[]').forEach((message) => add(pretty(message)));
    };
    const read = async () => {
      const answer = await raw('GET', `${url}?offset=${offset}`);
      if (!answer.ok) throw await refusal(answer);
      offset = answer.headers.get('stream-next-offset') ?? offset;
      take(is_json || type.startsWith('text/') ? await answer.text() : `${bytes((await answer.arrayBuffer()).byteLength)} of ${type}`);
      const is_end = answer.headers.get('stream-up-to-date') !== null;
      older.disabled = is_end;
      text(status, `${plural(messages, is_json ? 'message' : 'part')} read${is_end ? ', to the end' : ''}`);
      return is_end;
    };
    const toggle = () => {
      if (events) {
        events.close();
        events = null;
      } else {
        events = new Events(() => `${url}?offset=${encodeURIComponent(offset)}&live=sse`, {
          data: (_, event) => take(event.data),
          control: (_, event) => {
            const control = JSON.parse(event.data);
            offset = control.streamNextOffset ?? offset;
            text(status, `${plural(messages, is_json ? 'message' : 'part')} read, following at ${offset}${control.streamClosed ? ': the stream is closed' : ''}`);
            if (control.streamClosed) toggle();
          },
        }, { is_raw: true });
      }
      follow.textContent = events ? 'Stop following' : 'Follow live';
      follow.setAttribute('aria-pressed', String(Boolean(events)));
    };
    follow.addEventListener('click', () => busy(follow, async () => {
      // What is there comes first.
      if (!events) while (!(await read()));
      toggle();
    }));
    older.addEventListener('click', () => busy(older, read));
    leave = () => events?.close();
    replace(content, h('div', { class: 'stack' },
      h('div', { class: 'row between' }, h('h2', { class: 'mono' }, chosen), h('div', { class: 'row' }, older, follow)),
      h('dl', { class: 'detail panel' }, [['Content type', type], ['End', header('stream-next-offset')], ['Closed', header('stream-closed') ? 'yes' : 'no'], ['TTL', header('stream-ttl') ? `${header('stream-ttl')} s` : '–'], ['Expires', header('stream-expires-at') ? time(header('stream-expires-at')) : '–']].map(([name, value]) => [h('dt', {}, name), h('dd', {}, value ?? '–')])),
      status, log));
    await read().catch((error) => text(status, error.message));
  }
}
