// Elements, numbers and times. All text becomes text nodes: nothing here reads HTML.

/** An element. `props`: `on…` listeners, `class`, `data-…`, `aria-…`, other attributes; children are nodes or texts. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value') element.value = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(9)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/** Sets a text only where it differs, so that screen readers and selections are left alone. */
export function text(element, value) {
  const next = String(value);
  if (element.textContent !== next) element.textContent = next;
}

const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 1 });

export const count = (value) => (value === null || value === undefined ? '–' : whole.format(value));
export const compact = (value) => (value === null || value === undefined ? '–' : value < 10_000 ? whole.format(value) : short.format(value));
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

export function bytes(value) {
  if (value === null || value === undefined) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${at === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

export function ms(value) {
  if (value === null || value === undefined) return '–';
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10_000 ? 1 : 2)} s`;
  return `${value >= 100 ? Math.round(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

export function duration(seconds) {
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const at = parts.findIndex(([size]) => seconds >= size);
  if (at < 0) return '0 s';
  const [size, unit] = parts[at];
  const first = Math.floor(seconds / size);
  const next = parts[at + 1];
  const second = next ? Math.floor((seconds % size) / next[0]) : 0;
  return second && next ? `${first} ${unit} ${second} ${next[1]}` : `${first} ${unit}`;
}

export function ago(time) {
  if (!time) return '–';
  const seconds = Math.round((Date.now() - new Date(time).getTime()) / 1000);
  return seconds < 2 ? 'now' : `${duration(seconds)} ago`;
}

export const time = (value) => (value ? new Date(value).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' }) : '–');

export function when(value) {
  return value ? h('time', { datetime: new Date(value).toISOString(), title: time(value) }, ago(value)) : '–';
}

/** A table. `columns`: [head, class?]; `rows`: arrays of cells. Its caption is hidden where a heading says the same. */
export function table(caption, columns, rows, { is_titled = true } = {}) {
  const head = columns.map(([name, kind]) => h('th', { scope: 'col', class: kind }, name));
  const body = rows.map((cells) => h('tr', {}, cells.map((cell, at) => h('td', { class: columns[at][1] }, cell))));
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    h('table', {}, h('caption', { class: is_titled ? 'quiet' : 'hidden' }, caption), h('thead', {}, h('tr', {}, head)), h('tbody', {}, body)));
}

/** A label with its control. */
export function field(label, control, hint) {
  const id = control.id || `f${(field.next = (field.next || 0) + 1)}`;
  control.id = id;
  const note = hint && h('small', { id: `${id}-hint` }, hint);
  if (note) control.setAttribute('aria-describedby', note.id);
  return h('div', { class: 'field' }, h('label', { for: id }, label), control, note);
}

export function options(select, values, chosen) {
  replace(select, values.map((value) => {
    const [key, label] = Array.isArray(value) ? value : [value, value];
    return h('option', { value: key, selected: key === chosen }, label);
  }));
  return select;
}

/** JSON for people; anything else as it is. */
export function pretty(value) {
  if (value === undefined) return '';
  return typeof value === 'string' ? value : JSON.stringify(value, null, 2);
}

let status;
/** Says something to everybody, in the corner and to screen readers. */
export function say(message, kind = 'ok') {
  status ??= document.getElementById('say');
  const line = h('p', { class: `note ${kind}` }, message);
  status.append(line);
  setTimeout(() => line.remove(), kind === 'bad' ? 9000 : 4500);
}

/** Asks before something is done; resolves to whether to do it. */
export function confirm(title, message, action, kind = '') {
  return new Promise((resolve) => {
    const dialog = h('dialog', { class: 'ask', 'aria-labelledby': 'ask-title' },
      h('form', { method: 'dialog' },
        h('h2', { id: 'ask-title' }, title), h('p', {}, message),
        h('div', { class: 'row end' },
          h('button', { value: 'no' }, 'Cancel'),
          h('button', { value: 'yes', class: `primary ${kind}` }, action))));
    dialog.addEventListener('close', () => {
      resolve(dialog.returnValue === 'yes');
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Turns of which only the newest counts: `const is_newest = turn()` before a request, `if (!is_newest()) return` after it. */
export function turns() {
  let newest = 0;
  return () => {
    const own = (newest += 1);
    return () => own === newest;
  };
}

/** Runs `act` while a button is busy. What goes wrong is said. */
export async function busy(button, act) {
  const label = button.textContent;
  button.disabled = true;
  button.setAttribute('aria-busy', 'true');
  try {
    return await act();
  } catch (error) {
    say(error.message, 'bad');
    return undefined;
  } finally {
    button.disabled = false;
    button.removeAttribute('aria-busy');
    if (!button.textContent) button.textContent = label;
  }
}
