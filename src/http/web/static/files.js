// Files of the caller and the import of their lines.
import { Events, page, post, raw, refusal, request } from './api.js';
import { busy, bytes, confirm, count, field, h, options, plural, replace, say, table, text, when } from './dom.js';
import { may, modules } from './session.js';

export async function open(main, [id]) {
  const content = h('div');
  const detail = h('div', { class: 'panel', hidden: true });
  const input = h('input', { type: 'file', multiple: true, 'aria-label': 'Files to upload' });
  const upload = h('button', { type: 'button', class: 'primary' }, 'Upload');
  const more = h('button', { type: 'button', hidden: true }, 'Show more');
  const has_imports = modules.has('imports');
  let files = [];
  let next = null;
  let leave = () => {};

  const load = async (url) => {
    const found = await page(url ?? '/api/files?limit=50');
    files = url ? [...files, ...found.items] : found.items;
    next = found.next;
    more.hidden = !next;
    replace(content, files.length
      ? table('Files', [['Name', 'wide'], ['Size', 'number'], ['Type'], ['Uploaded'], ['Imported'], ['']], files.map((file) => [
        h('a', { href: `/ui/api/files/${file.id}`, download: file.filename }, file.filename), bytes(file.size), file.mime_type, when(file.uploaded_at), file.processed ? 'yes' : 'no',
        h('span', { class: 'row' }, has_imports && h('button', { type: 'button', class: 'link', onclick: () => show(file) }, 'Import'),
          may('files:write') && h('button', { type: 'button', class: 'link danger', onclick: (event) => remove(event.target, file) }, 'Delete'))]), { is_titled: false })
      : h('p', { class: 'empty' }, 'No file yet.'));
  };
  const remove = async (button, file) => {
    if (!(await confirm('Delete the file?', `${file.filename} will be deleted. What was imported from it stays.`, 'Delete', 'danger'))) return;
    await busy(button, async () => {
      await request('DELETE', `/api/files/${file.id}`);
      await load();
    });
  };
  upload.addEventListener('click', () => busy(upload, async () => {
    if (!input.files.length) return say('Choose files first.', 'bad');
    const form = new FormData();
    for (const file of input.files) form.append('file', file);
    const answer = await raw('POST', '/api/files/upload', { body: form });
    if (!answer.ok) throw await refusal(answer);
    say(`${plural(input.files.length, 'file')} stored.`);
    input.value = '';
    return load();
  }));
  more.addEventListener('click', () => busy(more, () => load(next)));

  const show = (file) => {
    leave();
    history.replaceState(null, '', `/#/files/${file.id}`);
    const kind = options(h('select'), [['', 'named by each line'], 'event', 'conversation', 'message'], 'event');
    const bar = h('div', { class: 'progress' }, h('span'));
    const line = h('p', { class: 'quiet', role: 'status' });
    const rejected = h('div');
    const follow = () => {
      const events = new Events(`/api/files/${file.id}/progress`, {
        progress: (state) => report(state), done: (state) => end(state), failed: (state) => end(state),
      });
      leave = () => events.close();
      const report = (state) => {
        bar.firstChild.style.width = `${state.total_bytes ? Math.round((state.bytes / state.total_bytes) * 100) : 0}%`;
        text(line, `${state.state}: ${count(state.lines)} lines, ${count(state.stored)} stored, ${count(state.rejected)} rejected, ${bytes(state.bytes)} of ${bytes(state.total_bytes)}${state.error ? `. ${state.error}` : ''}`);
      };
      const end = async (state) => {
        events.close();
        report(state);
        if (state.rejected > 0) {
          const answer = await raw('GET', `/api/files/${file.id}/rejected`);
          const lines = (await answer.text()).trim().split('\n').slice(0, 200).map((one) => JSON.parse(one));
          replace(rejected, table('Rejected lines', [['Line', 'number'], ['Reason', 'wide']], lines.map((one) => [count(one.line), one.reason])));
        }
        await load();
      };
    };
    const begin = h('button', { type: 'button', class: 'primary', onclick: () => busy(begin, async () => {
      await post(`/api/files/process-jsonl${kind.value ? `?kind=${kind.value}` : ''}`, { file_id: file.id });
      follow();
    }) }, 'Import the lines');
    detail.hidden = false;
    replace(detail, h('h2', {}, `Import of ${file.filename}`),
      file.processed || !may('files:write') ? h('p', { class: 'quiet' }, 'A file is imported once.') : h('div', { class: 'row' }, field('Each line is', kind), begin),
      bar, line, rejected);
    raw('GET', `/api/files/${file.id}/progress`).then((answer) => { if (answer.ok) follow(); });
    detail.scrollIntoView({ block: 'nearest' });
  };

  replace(main, h('section', { class: 'hero' }, h('h1', {}, has_imports ? 'Files and imports' : 'Files'), h('p', { class: 'lead' }, 'Your own files. Each line of one can become an event, a conversation or a message.')),
    may('files:write') && h('section', { class: 'row', 'aria-label': 'Upload' }, h('div', { class: 'grow' }, input), upload), h('section', {}, content, more), detail);
  await load();
  const found = files.find((file) => file.id === id);
  if (found && has_imports) show(found);
  return () => leave();
}
