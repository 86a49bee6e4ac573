// Who uses the page, what they may do, and sign-in.
import { get, refresh, request } from './api.js';
import { busy, field, h, replace } from './dom.js';

const facts = document.documentElement.dataset;
export const modules = new Set(facts.modules.split(' '));
export const is_open = facts.auth === 'open';
export const has_faults = facts.faults === 'on';

let caller = { kind: 'anonymous', permissions: [], session: false };
export const who = () => caller;

/** Whether the caller has a permission; a prefix of names counts as some of it. */
export function may(scope) {
  return caller.permissions.some((own) => own === 'admin' || own === scope || own.startsWith(`${scope}:`));
}

/** Loads the caller; false: they have to sign in. */
export async function load() {
  try {
    caller = await get('/session');
  } catch (error) {
    if (error.status !== 401) throw error;
    caller = { kind: 'anonymous', permissions: [], session: false };
    if (!is_open) return false;
    // A cookie that is not valid any more is worse than none, on a service that needs none.
    await request('DELETE', '/session');
    caller = await get('/session');
  }
  return is_open || caller.kind !== 'anonymous';
}

export async function sign_out() {
  await request('DELETE', '/session');
  location.hash = '';
  location.reload();
}

export { refresh };

/** Shows the form to sign in, and calls `done` afterwards. */
export function show_sign_in(main, done) {
  const error = h('p', { class: 'error', role: 'alert' });
  const email = h('input', { type: 'email', autocomplete: 'username', required: true });
  const password = h('input', { type: 'password', autocomplete: 'current-password', required: true, minlength: '8' });
  const token = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false' });
  const submit = async (event, json) => {
    event.preventDefault();
    error.textContent = '';
    await busy(event.submitter, async () => {
      try {
        await request('POST', '/session', { json });
      } catch (refused) {
        error.textContent = refused.message;
        return;
      }
      done();
    });
  };
  replace(main, h('section', { class: 'sign-in', 'aria-labelledby': 'sign-in' },
    h('h1', { id: 'sign-in' }, 'Sign in'),
    h('p', { class: 'quiet' }, 'This service answers known callers only.'),
    error,
    h('form', { onsubmit: (event) => submit(event, { email: email.value, password: password.value }) },
      field('Email', email), field('Password', password), h('button', { class: 'primary' }, 'Sign in')),
    h('details', {},
      h('summary', {}, 'Use a token instead'),
      h('form', { onsubmit: (event) => submit(event, { token: token.value }) },
        field('Token', token, 'An API key (tg_…), the operator’s token, or one of your issuer. It stays in a cookie that scripts cannot read, until the browser ends.'),
        h('button', {}, 'Sign in with it')))));
  email.focus();
}
