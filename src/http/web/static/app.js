// The document at `/`: a view for each place in the address, such as `/#/live`.
import { h, replace } from './dom.js';
import { VIEWS, show_views, start } from './shell.js';

let leave = () => {};
let shown = 0;

async function show(main) {
  const [, id = '', ...rest] = location.hash.split('/');
  const own = VIEWS.filter((view) => view.has());
  const view = own.find((one) => one.id === id) ?? own[0];
  show_views(view?.id);
  const turn = (shown += 1);
  leave();
  leave = () => {};
  if (!view) {
    replace(main, h('section', { class: 'hero' }, h('h1', {}, 'Nothing to see here.'), h('p', { class: 'lead' }, 'This caller has no permission for any view.')));
    return;
  }
  document.title = `${view.name} · Tidegate`;
  const { open } = await view.load();
  if (turn !== shown) return;
  replace(main);
  const arguments_of = rest.map((part) => decodeURIComponent(part));
  leave = (await open(main, arguments_of)) ?? (() => {});
}

start((main) => {
  addEventListener('hashchange', async () => {
    await show(main);
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  });
  return show(main);
});
