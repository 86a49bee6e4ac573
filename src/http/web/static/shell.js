// What both documents share: the list of views, the theme, the caller.
import { h, replace } from './dom.js';
import { load, may, modules, show_sign_in, sign_out, who } from './session.js';

/** Every view: its place in the address, its name, whether this caller has it, and its script. */
export const VIEWS = [
  { id: 'live', name: 'Live', has: () => may('ops:read'), load: () => import('./live.js') },
  { id: 'dead-letters', name: 'Dead letters', has: () => may('deadletters:read'), load: () => import('./dead.js') },
  { id: 'routes', name: 'Routes', has: () => may('admin'), load: () => import('./routes.js') },
  { id: 'records', name: 'Records', has: () => modules.has('records') && may('records:read'), load: () => import('./records.js') },
  { id: 'streams', name: 'Streams', has: () => modules.has('streams') && may('streams:read'), load: () => import('./streams.js') },
  { id: 'conversations', name: 'Conversations', has: () => modules.has('conversations') && may('conversations:read'), load: () => import('./conversations.js') },
  { id: 'files', name: 'Files', has: () => modules.has('files') && may('files:read'), load: () => import('./files.js') },
  { id: 'account', name: 'Account', has: () => true, load: () => import('./account.js') },
];

export function has_stress() {
  return modules.has('stress') && (may('stress') || may('records:read'));
}

/** Shows the views in the rail; `current` is the id of one, or `stress`. */
export function show_views(current) {
  const link = (href, name, id) => h('li', {}, h('a', { href, 'aria-current': id === current ? 'page' : null }, name));
  const items = VIEWS.filter((view) => view.has()).map((view) => link(`/#/${view.id}`, view.name, view.id));
  if (has_stress()) items.push(link('/stress', 'Stress', 'stress'));
  replace(document.getElementById('views'), items);
  document.querySelector('#views [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
}

const THEMES = [['', 'System theme'], ['light', 'Light theme'], ['dark', 'Dark theme']];

function show_theme() {
  const button = document.getElementById('theme');
  const of_now = () => THEMES.findIndex(([name]) => name === (document.documentElement.dataset.theme ?? ''));
  const label = () => { button.textContent = THEMES[of_now()][1]; };
  button.setAttribute('aria-label', 'Change the theme');
  button.addEventListener('click', () => {
    const [name] = THEMES[(of_now() + 1) % THEMES.length];
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
    try {
      if (name) localStorage.setItem('tidegate-theme', name);
      else localStorage.removeItem('tidegate-theme');
    } catch {
      // Storage is off: the choice ends with the page.
    }
    label();
    button.setAttribute('aria-label', `${button.textContent}: change it`);
    document.dispatchEvent(new Event('theme'));
  });
  label();
  button.setAttribute('aria-label', `${button.textContent}: change it`);
}

function show_caller() {
  const caller = who();
  const names = { anonymous: 'Open service', operator: 'Operator', key: 'API key', user: caller.email ?? 'User' };
  replace(document.getElementById('who'),
    h('span', { title: names[caller.kind] }, names[caller.kind]),
    caller.kind !== 'anonymous' && h('button', { class: 'plain', type: 'button', onclick: sign_out }, 'Sign out'));
}

/** Starts a document: finds the caller, lets them sign in where they have to, and calls `show`. */
export async function start(show) {
  const main = document.getElementById('main');
  show_theme();
  let is_asking = false;
  const ask = () => {
    if (is_asking) return;
    is_asking = true;
    show_sign_in(main, () => location.reload());
    replace(document.getElementById('views'));
  };
  document.addEventListener('signed-out', ask);
  const begin = async () => {
    try {
      if (!(await load())) return ask();
      show_caller();
      return show(main);
    } catch (error) {
      replace(main, h('section', { class: 'hero' }, h('h1', {}, 'The service does not answer.'), h('p', { class: 'lead' }, `${error.message} Trying again.`)));
      return setTimeout(begin, 1500);
    }
  };
  await begin();
}
