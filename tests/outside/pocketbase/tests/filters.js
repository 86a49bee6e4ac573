import { suite, test } from 'node:test';
import { assert, client, make, parallel, refused, superuser, user } from '../support.js';

const rows = [
  { title: 'Apple', n: 1, flag: true, date: '2024-01-15 10:00:00.000Z', tags: ['a'], data: { deep: { list: [1, 'two'] }, s: 'x' }, place: { lon: 2.35, lat: 48.85 } },
  { title: 'apple pie', n: 2.5, flag: false, date: '2024-06-01 00:00:00.000Z', tags: ['a', 'b'], data: [1, 2, 3], place: { lon: 13.4, lat: 52.52 } },
  { title: '100% sure', n: -3, flag: true, date: '2023-12-31 23:59:59.999Z', tags: [], data: null, place: { lon: 0, lat: 0 } },
  { title: 'under_score', n: 0, flag: false, date: '', tags: ['b', 'c'], data: '', place: { lon: -74, lat: 40.7 } },
  { title: '', n: 1000000, flag: true, date: '2030-01-01 00:00:00.000Z', tags: ['c'], data: 'text', place: { lon: 2.3, lat: 48.9 } },
  { title: 'quote " and \' and \\', n: 7, flag: false, date: '2024-01-15 10:00:00.001Z', tags: ['a', 'b', 'c'], data: { deep: null }, place: { lon: 139.7, lat: 35.7 } },
];
const all = [0, 1, 2, 3, 4, 5];

async function fruit(t) {
  const posts = await make(t, {
    fields: [
      { name: 'row', type: 'number' }, { name: 'title', type: 'text' }, { name: 'n', type: 'number' }, { name: 'flag', type: 'bool' },
      { name: 'date', type: 'date' }, { name: 'tags', type: 'select', values: ['a', 'b', 'c'], maxSelect: 3 }, { name: 'data', type: 'json' },
      { name: 'place', type: 'geoPoint' },
    ],
  });
  await parallel(rows.length, 1, (row) => client().collection(posts.name).create({ row, ...rows[row] }));
  return posts;
}

/** Checks a table of filters and the rows that they are to find. */
async function finds(pb, collection, table) {
  for (const [filter, expected] of table) {
    const found = await pb.collection(collection).getFullList({ filter, sort: 'row' }).catch((error) => assert.fail(`${filter}: ${error}`));
    assert.deepEqual(found.map((record) => record.row), expected, filter);
  }
}

suite('filters', () => {
  test('comparisons', async (t) => {
    const posts = await fruit(t);
    await finds(client(), posts.name, [
      ['n = 1', [0]], ['n != 1', [1, 2, 3, 4, 5]], ['n > 1', [1, 4, 5]], ['n >= 1', [0, 1, 4, 5]], ['n < 0', [2]], ['n <= 0', [2, 3]],
      ['n = -3', [2]], ['n = 2.50', [1]], ['n = "1"', [0]], ['n = 1000000', [4]],
      ['title = "Apple"', [0]], ["title = 'Apple'", [0]], ['title != "Apple"', [1, 2, 3, 4, 5]], ['title > "a"', [1, 3, 5]],
      ['flag = true', [0, 2, 4]], ['flag = false', [1, 3, 5]], ['flag != true', [1, 3, 5]], ['flag = 1', [0, 2, 4]],
      ['"Apple" = title', [0]], ['1 = 1', all], ['1 = 2', []], ['row = n', []], ['n > row', [0, 1, 4, 5]],
      ['date >= "2024-01"', [0, 1, 4, 5]], ['date < "2024"', [2, 3]], ['date = "2024-01-15 10:00:00.000Z"', [0]],
    ]);
  });

  test('contains', async (t) => {
    const posts = await fruit(t);
    await finds(client(), posts.name, [
      ['title ~ "apple"', [0, 1]], ['title ~ "APPLE"', [0, 1]], ['title !~ "apple"', [2, 3, 4, 5]], ['title ~ "apple%"', [0, 1]], ['title ~ "%pie"', [1]],
      ['title ~ "a%e"', [0, 1]], ['title ~ "_"', [3]], ['title ~ "\\%"', [2]], ['title ~ "0\\% s"', [2]], ['title ~ ""', all],
      ['n ~ "00"', [4]], ['date ~ "2024-01"', [0, 5]], ['"Apple pie" ~ title', [0, 1, 4]],
      ['title ~ "\\""', [5]], ["title ~ '\"'", [5]],
    ]);
  });

  test('empty, null and missing', async (t) => {
    const posts = await fruit(t);
    await finds(client(), posts.name, [
      ['title = ""', [4]], ['title = null', [4]], ['title != null', [0, 1, 2, 3, 5]], ['title != ""', [0, 1, 2, 3, 5]],
      ['date = ""', [3]], ['date = null', [3]], ['date != ""', [0, 1, 2, 4, 5]], ['n = null', []], ['n = 0', [3]],
      ['data = null', [2]], ['data = ""', [3]], ['data.deep = null', [1, 2, 3, 4, 5]], ['data.nothing = null', all], ['null = null', all],
    ]);
  });

  test('and, or, groups and comments', async (t) => {
    const posts = await fruit(t);
    await finds(client(), posts.name, [
      ['n = 1 || n = 7', [0, 5]], ['n > 0 && flag = true', [0, 4]], ['n = 7 || n > 0 && flag = true', [0, 4, 5]],
      ['(n = 7 || n > 0) && flag = true', [0, 4]], ['((n=1))||((n=7)&&(flag=false))', [0, 5]],
      ['n = 1 // one\n || n = 7 // seven', [0, 5]], ['  n=1\n||\tn=7 ', [0, 5]], ['title = "a // b" || n = 1', [0]],
    ]);
  });

  test('several values: all of them, any of them, each and length', async (t) => {
    const posts = await fruit(t);
    await finds(client(), posts.name, [
      ['tags:each = "a"', [0]], ['tags:each ?= "a"', [0, 1, 5]], ['tags:each != "a"', [2, 3, 4]], ['tags:each ?!= "a"', [1, 2, 3, 4, 5]],
      ['tags:each ~ "c"', [4]], ['tags:each ?~ "c"', [3, 4, 5]], ['tags ~ "a"', [0, 1, 5]], ['tags = "a"', []], ['tags ?= "a"', []],
      ['tags:length = 0', [2]], ['tags:length > 1', [1, 3, 5]], ['tags:length >= 3', [5]],
      ['title:lower = "apple"', [0]], ['title:lower ~ "APPLE"', [0, 1]],
    ]);
  });

  test('inside json', async (t) => {
    const posts = await fruit(t);
    await finds(client(), posts.name, [
      ['data.deep.list.0 = 1', [0]], ['data.deep.list.1 = "two"', [0]], ['data.s = "x"', [0]], ['data.s != "x"', [1, 2, 3, 4, 5]],
      ['data.1 = 2', [1]], ['data = "text"', [4]], ['data ~ "two"', [0]], ["data = '[1,2,3]'", [1]],
    ]);
  });

  test('distances', async (t) => {
    const posts = await fruit(t);
    await finds(client(), posts.name, [
      ['geoDistance(place.lon, place.lat, 2.3522, 48.8566) < 10', [0, 4]],
      ['geoDistance(place.lon, place.lat, 2.3522, 48.8566) > 800 && geoDistance(place.lon, place.lat, 2.3522, 48.8566) < 1000', [1]],
      ['place.lat > 50', [1]],
    ]);
  });

  test('macros of time', async (t) => {
    const posts = await fruit(t);
    const records = client().collection(posts.name);
    const at = (milliseconds) => new Date(Date.now() + milliseconds).toISOString().replace('T', ' ');
    const hour = 3_600_000;
    await Promise.all((await records.getFullList()).map((record) => records.delete(record.id)));
    await parallel(4, 1, (row) => records.create({ row, date: at([-48 * hour, -1000, 48 * hour, -400 * 24 * hour][row]) }));
    await finds(client(), posts.name, [
      ['date < @now', [0, 1, 3]], ['date > @now', [2]], ['date < @yesterday', [0, 3]], ['date > @tomorrow', [2]],
      ['@todayStart <= @now && @todayEnd >= @now', [0, 1, 2, 3]], ['date < @todayStart && date > "2000"', (await records.getFullList({ sort: 'row' }))
        .filter((record) => record.date.slice(0, 10) < new Date().toISOString().slice(0, 10)).map((record) => record.row)],
      ['@monthStart <= @todayStart && @monthEnd >= @todayEnd', [0, 1, 2, 3]], ['@yearStart <= @monthStart && @yearEnd >= @monthEnd', [0, 1, 2, 3]],
      [`@year = ${new Date().getUTCFullYear()}`, [0, 1, 2, 3]], [`@month = ${new Date().getUTCMonth() + 1}`, [0, 1, 2, 3]],
      [`@day = ${new Date().getUTCDate()} && @weekday = ${new Date().getUTCDay()}`, [0, 1, 2, 3]],
      ['@hour >= 0 && @hour < 24 && @minute >= 0 && @minute < 60 && @second >= 0 && @second < 60', [0, 1, 2, 3]],
      ['date < @yearStart', (await records.getFullList({ sort: 'row' }))
        .filter((record) => record.date.slice(0, 4) < String(new Date().getUTCFullYear())).map((record) => record.row)],
    ]);
  });

  test('values that pb.filter puts in', async (t) => {
    const posts = await fruit(t);
    const pb = client();
    await finds(pb, posts.name, [
      [pb.filter('title = {:title}', { title: rows[5].title }), [5]], [pb.filter('n = {:n}', { n: 2.5 }), [1]], [pb.filter('flag = {:flag}', { flag: true }), [0, 2, 4]],
      [pb.filter('date = {:date}', { date: new Date('2024-01-15T10:00:00Z') }), [0]], [pb.filter('title = {:none}', { none: null }), [4]],
      [pb.filter('title ~ {:part}', { part: '" && 1=1 || "' }), []],
    ]);
  });

  test('relations, forward, back and through several values', async (t) => {
    const authors = await make(t);
    const posts = await make(t, {
      fields: [
        { name: 'row', type: 'number' }, { name: 'author', type: 'relation', collectionId: authors.id, maxSelect: 1 },
        { name: 'readers', type: 'relation', collectionId: authors.id, maxSelect: 9 },
      ],
    });
    const pb = client();
    const [ann, bob] = await parallel(2, 1, (n) => pb.collection(authors.name).create({ title: ['Ann', 'Bob'][n], n }));
    const sent = [
      { author: ann.id, readers: [ann.id, bob.id] }, { author: bob.id, readers: [bob.id] }, { author: '', readers: [] },
    ];
    await parallel(3, 1, (row) => pb.collection(posts.name).create({ row, ...sent[row] }));
    await finds(pb, posts.name, [
      ['author.title = "Ann"', [0]], ['author.title != "Ann"', [1, 2]], ['author = ""', [2]], [`author = "${bob.id}"`, [1]], ['author.n = 1', [1]],
      ['readers.title = "Bob"', [1]], ['readers.title ?= "Bob"', [0, 1]], ['readers.title != "Ann"', [1, 2]], ['readers.title ?!= "Ann"', [0, 1, 2]],
      ['readers.n > 0', [1]], ['readers.n ?>= 0', [0, 1]], [`readers ~ "${ann.id}"`, [0]], ['readers:length = 0', [2]],
      [`author.${posts.name}_via_author.row ?= 0`, [0]],
    ]);
    const back = `${posts.name}_via_author`;
    const names = async (filter, sort = 'title') => (await pb.collection(authors.name).getFullList({ filter, sort })).map((record) => record.title);
    assert.deepEqual(await names(`${back}.row = 0`), ['Ann']);
    assert.deepEqual(await names(`${back}.id = ""`), []);
    assert.deepEqual(await names('', `-${back}.row`), ['Bob', 'Ann']);
    assert.deepEqual((await pb.collection(posts.name).getFullList({ sort: '-author.title,row' })).map((record) => record.row), [1, 0, 2]);
  });

  test('clients see related records only through the list rule', async (t) => {
    const authors = await make(t, { listRule: 'n > 0' });
    const posts = await make(t, {
      fields: [{ name: 'row', type: 'number' }, { name: 'author', type: 'relation', collectionId: authors.id, maxSelect: 1 }],
    });
    const admin = await superuser();
    const [shown, hidden] = await parallel(2, 1, (n) => admin.collection(authors.name).create({ title: 'x', n: 1 - n }));
    await parallel(2, 1, (row) => admin.collection(posts.name).create({ row, author: [shown, hidden][row].id }));
    await finds(client(), posts.name, [
      ['author.title = "x"', [0]], ['author.title != "x"', []], ['author.id != ""', [0, 1]], [`author = "${hidden.id}"`, [1]],
    ]);
    await finds(admin, posts.name, [['author.title = "x"', [0, 1]]]);
    await admin.collections.update(authors.id, { listRule: null });
    const guest = client().collection(posts.name);
    await refused(guest.getList(1, 1, { filter: 'author.title = "x"' }), 400);
    await refused(guest.getList(1, 1, { sort: 'author.title' }), 400);
    await admin.collections.update(posts.id, { listRule: 'author.title = "x"' });
    await finds(client(), posts.name, [['', [0, 1]]]);
  });

  test('other collections and the request, in rules and for superusers', async (t) => {
    const people = await make(t, { type: 'auth' });
    const ann = await user(people.name);
    const members = await make(t, { fields: [{ name: 'who', type: 'text' }, { name: 'team', type: 'text' }] });
    const posts = await make(t, {
      fields: [{ name: 'row', type: 'number' }, { name: 'team', type: 'text' }],
      listRule: `@collection.${members.name}.who ?= @request.auth.id && @collection.${members.name}.team ?= team`,
    });
    const admin = await superuser();
    await admin.collection(members.name).create({ who: ann.id, team: 'red' });
    await admin.collection(members.name).create({ who: 'someone', team: 'blue' });
    await parallel(2, 1, (row) => admin.collection(posts.name).create({ row, team: ['red', 'green'][row] }));
    await finds(ann, posts.name, [['', [0]]]);
    await finds(client(), posts.name, [['', []]]);
    await finds(admin, posts.name, [
      [`@collection.${members.name}.team ?= team`, [0]],
      [`@collection.${members.name}:m.team ?= "red" && @collection.${members.name}:m.team ?= team`, [0]],
      ['@request.auth.id != "" && @request.auth.collectionName = "_superusers"', [0, 1]],
      ['@request.query.sort = "row" && @request.method = "GET"', [0, 1]],
    ]);
  });

  test('what is no filter is 400', async (t) => {
    const posts = await fruit(t);
    for (const filter of ['(', 'n', 'n =', '= 1', 'n = 1 &&', 'n = 1 & n = 2', 'nothing = 1', 'n == 1', 'title = "open', 'n = 1e5', 'n = .5', 'title.x = 1',
      'title:nothing = 1', '@nothing = 1', '// only', 'n = 1 n = 2', 'geoDistance(1,2) > 1', 'n in (1)', 'author.title = 1']) {
      await refused(client().collection(posts.name).getList(1, 1, { filter }), 400, 'Something went wrong while processing your request.');
    }
  });
});
