// The caller: who they are, their sessions, their API keys.
import { get, page, post, request } from './api.js';
import { busy, confirm, field, h, options, replace, say, table, time, when } from './dom.js';
import { is_open, show_sign_in, sign_out, who } from './session.js';

const SCOPES = ['events:write', 'deadletters:read', 'deadletters:write', 'records:read', 'records:write', 'conversations:read', 'conversations:write', 'files:read', 'files:write',
  'streams:read', 'streams:write', 'streams:create', 'streams:delete', 'streams:claim', 'realtime:read', 'ops:read', 'stress', 'admin'];

export async function open(main) {
  const caller = who();
  if (caller.kind === 'anonymous') {
    show_sign_in(main, () => location.reload());
    main.querySelector('.quiet').textContent = 'This service needs no sign-in. Signed in, you see your own conversations, files, sessions and keys.';
    return;
  }
  const sessions = h('div');
  const keys = h('div');
  const made = h('div', { role: 'status' });

  const load_sessions = async () => {
    const all = await get('/api/auth/sessions');
    replace(sessions, table('Sessions', [['Browser', 'wide'], ['Address'], ['Begun'], ['Last used'], ['']], all.map((one) => [
      one.user_agent ?? '–', one.address ?? '–', when(one.created), when(one.last_used),
      one.current ? h('span', { class: 'badge ok' }, 'this one') : h('button', { type: 'button', class: 'link danger', onclick: (event) => end(event.target, one) }, 'End'),
    ]), { is_titled: false }));
  };
  const end = async (button, one) => {
    if (!(await confirm('End the session?', 'Its tokens are invalid at once.', 'End', 'danger'))) return;
    await busy(button, async () => {
      await request('DELETE', `/api/auth/sessions/${one.id}`);
      await load_sessions();
    });
  };
  const load_keys = async () => {
    const { items } = await page('/api/keys');
    replace(keys, items.length
      ? table('Keys', [['Name', 'wide'], ['Key'], ['Scopes', 'wide'], ['Made'], ['Last used'], ['Expires'], ['']], items.map((key) => [
        key.name || '–', h('code', {}, `${key.prefix}…`), key.scopes.join(', '), when(key.created), when(key.last_used), key.expires ? time(key.expires) : 'never',
        key.revoked ? h('span', { class: 'badge' }, 'revoked') : h('button', { type: 'button', class: 'link danger', onclick: (event) => revoke(event.target, key) }, 'Revoke')]), { is_titled: false })
      : h('p', { class: 'empty' }, 'No key yet.'));
  };
  const revoke = async (button, key) => {
    if (!(await confirm('Revoke the key?', `Programs with ${key.prefix}… are rejected from then on.`, 'Revoke', 'danger'))) return;
    await busy(button, async () => {
      await request('DELETE', `/api/keys/${key.id}`);
      await load_keys();
    });
  };
  const name = h('input', { placeholder: 'sensors', maxlength: '200' });
  const granted = SCOPES.filter((scope) => caller.permissions.includes('admin') || caller.permissions.includes(scope));
  const scopes = options(h('select', { multiple: true, size: '5', required: true }), granted, granted[0]);
  const create = h('form', { class: 'panel', onsubmit: (event) => {
    event.preventDefault();
    busy(event.submitter, async () => {
      const key = await post('/api/keys', { name: name.value.trim() || undefined, scopes: [...scopes.selectedOptions].map((option) => option.value) });
      replace(made, h('p', {}, 'The key, which is shown only once:'), h('pre', { tabindex: '0', 'aria-label': 'The new key' }, key.key));
      say('The key is made.');
      await load_keys();
    });
  } }, h('h3', {}, 'New key'), h('div', { class: 'fields' }, field('Name', name), field('Scopes', scopes, 'at most your own')), h('div', {}, h('button', { class: 'primary' }, 'Create')), made);

  const kinds = { user: 'a user', operator: 'the operator', key: 'an API key' };
  replace(main,
    h('section', { class: 'hero' }, h('h1', {}, caller.email ?? 'Account'), h('p', { class: 'lead' }, `Signed in as ${kinds[caller.kind] ?? caller.kind}${is_open ? ' of an open service' : ''}. Permissions: ${caller.permissions.join(', ') || 'none'}.`),
      h('p', { class: 'row' }, h('button', { type: 'button', onclick: sign_out }, 'Sign out'))),
    caller.session && h('section', {}, h('h2', {}, 'Sessions'), sessions),
    h('section', { class: 'stack' }, h('h2', {}, 'API keys'), keys, caller.kind !== 'key' || caller.permissions.includes('admin') ? create : null));
  if (caller.session) await load_sessions();
  await load_keys().catch((error) => replace(keys, h('p', { class: 'quiet' }, error.message)));
}
