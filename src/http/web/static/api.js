// Requests of the page, all below /ui/: the browser adds the cookie, which scripts cannot read.

/** An answer that is no success. */
export class Refused extends Error {
  constructor(status, code, message, field) {
    super(message);
    Object.assign(this, { status, code, field });
  }
}

let refreshing;
/** Gets the next token of the session; false: there is no session. Requests that need one at the same time share it. */
export function refresh() {
  refreshing ??= fetch('/ui/session/refresh', { method: 'POST' })
    .then((answer) => answer.ok, () => false)
    .finally(() => { refreshing = undefined; });
  return refreshing;
}

async function send(path, init) {
  let answer = await fetch(`/ui${path}`, init);
  if (answer.status === 401 && !init.is_retry && (await refresh())) answer = await fetch(`/ui${path}`, init);
  return answer;
}

/** A request to a route of the API, such as `/api/health`; returns the answer, whatever its status. */
export function raw(method, path, { body, json, headers = {}, signal } = {}) {
  const init = { method, headers: { ...headers }, body, signal, cache: 'no-store' };
  if (json !== undefined) {
    init.body = JSON.stringify(json);
    init.headers['content-type'] ??= 'application/json';
  }
  return send(path, init);
}

/** As `raw`; an answer that is no success is thrown. */
export async function request(method, path, options) {
  let answer;
  try {
    answer = await raw(method, path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused(0, 'away', 'The service does not answer.');
  }
  if (answer.ok) return answer;
  throw await refusal(answer);
}

export async function refusal(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch {
    // No body of ours.
  }
  const message = error.message ?? `The service answered ${answer.status}.`;
  if (answer.status === 401) document.dispatchEvent(new Event('signed-out'));
  return new Refused(answer.status, error.code ?? '', error.field ? `${message} (${error.field})` : message, error.field);
}

export const get = async (path, options) => (await request('GET', path, options)).json();

export async function post(path, json, options = {}) {
  const answer = await request('POST', path, { json, ...options });
  return answer.status === 204 ? null : answer.json();
}

/** A page of a list: its elements, and how to get the next page. */
export async function page(path) {
  const answer = await request('GET', path);
  return { items: await answer.json(), next: next(answer), total: answer.headers.get('x-total-count'), position: answer.headers.get('x-feed-position') };
}

/** The URL of the next page, below /ui again. */
export function next(answer) {
  const link = answer.headers.get('link') ?? '';
  for (const part of link.split(/,\s*(?=<)/)) {
    const found = part.match(/^<([^>]+)>;\s*rel="next"/);
    if (found) return found[1];
  }
  return null;
}

/** Server-sent events that come back after anything: a restart, an outage, an expired token. */
export class Events {
  constructor(path, handlers, { state = () => {}, is_raw = false } = {}) {
    Object.assign(this, { path, handlers, state, is_raw, is_closed: false, position: null, wait_ms: 500 });
    this.open();
  }

  open() {
    if (this.is_closed) return;
    const path = typeof this.path === 'function' ? this.path(this.position) : this.path;
    const source = new EventSource(`/ui${path}`);
    this.source = source;
    source.addEventListener('open', () => {
      this.wait_ms = 500;
      this.state('live');
    });
    for (const [name, handle] of Object.entries(this.handlers)) {
      source.addEventListener(name, (event) => {
        if (event.lastEventId) this.position = event.lastEventId;
        handle(event.data && !this.is_raw ? JSON.parse(event.data) : null, event);
      });
    }
    source.addEventListener('error', () => {
      if (this.is_closed) return;
      this.state('lost');
      // A browser comes back by itself after a broken connection, but to the same URL, and it gives up after an answer that is no stream.
      source.close();
      this.again();
    });
  }

  again() {
    clearTimeout(this.timer);
    this.wait_ms = Math.min(10_000, this.wait_ms * 1.5);
    this.timer = setTimeout(async () => {
      if (this.is_closed) return;
      try {
        const answer = await fetch('/ui/session', { cache: 'no-store' });
        if (answer.status === 401 && !(await refresh())) {
          this.close();
          document.dispatchEvent(new Event('signed-out'));
          return;
        }
      } catch {
        // Still away.
      }
      this.open();
    }, this.wait_ms);
  }

  close() {
    this.is_closed = true;
    clearTimeout(this.timer);
    this.source?.close();
  }
}
