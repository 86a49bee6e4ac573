// Runs the tests, one file after another, and compares the outcome with `differences.json`.
//
// Fails if fewer tests ran than are written, if a test was skipped, or if the tests that failed are not exactly the known differences of
// the server. `POCKETBASE_FLAVOR` names the server: `pocketbase` (default), for which there are no differences, or `tidegate`.
//
// A difference: {"test": "<suite> › <test>", "differs": "<what the server does instead>", "reason": "<why it stays so>"}.
//
// `stronger.js` states what PocketBase does not guarantee, and runs against tidegate only.
//
// usage: node run.js [a regular expression for names of files]
import { readFileSync, readdirSync } from 'node:fs';
import { run } from 'node:test';

const folder = new URL('tests/', import.meta.url);
const flavor = process.env.POCKETBASE_FLAVOR ?? 'pocketbase';
const part = process.argv[2] ?? '';
const isOfServer = (name) => name !== 'stronger.js' || flavor === 'tidegate';
const files = readdirSync(folder).filter((name) => name.endsWith('.js') && new RegExp(part).test(name) && isOfServer(name)).sort();
const known = flavor === 'pocketbase' ? [] : JSON.parse(readFileSync(new URL('differences.json', import.meta.url), 'utf8'));
for (const entry of known) {
  for (const member of ['test', 'differs', 'reason']) {
    if (typeof entry[member] !== 'string' || !entry[member]) throw new Error(`differences.json: no ${member} in ${JSON.stringify(entry)}`);
  }
}

let bad = 0;
const complain = (text) => {
  bad += 1;
  console.log(`FAIL ${text}`);
};
const failed = new Map();
let ran = 0;
let written = 0;
const written_names = new Set();
for (const file of files) {
  const source = readFileSync(new URL(file, folder), 'utf8');
  const here = source.match(/^ {2}test\(/gm)?.length ?? 0;
  if (/^(?! {2}test\()[ \t]*(test|it)(\.\w+)?\(/m.test(source)) complain(`${file}: each test begins a line, indented by two spaces`);
  written += here;
  let ran_here = 0;
  const started = Date.now();
  let suite;
  const names = [];
  for await (const { type, data } of run({ files: [new URL(file, folder).pathname], concurrency: false, timeout: 120_000 })) {
    if (type === 'test:stdout' || type === 'test:stderr') process.stdout.write(data.message);
    if (type === 'test:diagnostic' && data.nesting > 0) console.log(`  ${data.message}`);
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    if (data.nesting === 0) {
      suite = data.name;
      if (type === 'test:fail' && names.length === 0) complain(`${file}: ${data.details?.error?.message}`);
      for (const { name, error } of names.splice(0)) {
        const full = `${suite} › ${name}`;
        if (written_names.has(full)) complain(`two tests are named ${full}`);
        written_names.add(full);
        if (error) failed.set(full, error);
      }
      continue;
    }
    if (data.nesting > 1 || data.details?.type === 'suite') continue;
    if (data.skip !== undefined || data.todo !== undefined) {
      complain(`skipped: ${data.name}`);
      continue;
    }
    ran_here += 1;
    names.push({ name: data.name, error: type === 'test:fail' ? data.details.error : undefined });
  }
  ran += ran_here;
  console.log(`${file}: ${ran_here} of ${here} tests ran, ${((Date.now() - started) / 1000).toFixed(1)} s`);
}

for (const [name, error] of failed) {
  if (known.some((entry) => entry.test === name)) continue;
  complain(`${name}\n${error?.cause?.stack ?? error?.stack ?? error}`);
}
for (const { test } of known) {
  if (!written_names.has(test)) { if (!part) complain(`differences.json names no test: ${test}`); }
  else if (!failed.has(test)) complain(`no longer a difference; take it off differences.json: ${test}`);
}
if (ran < written || ran === 0) complain(`${ran} tests ran, ${written} are written`);
console.log(`${ran - failed.size} passed, ${failed.size} failed, ${known.length} known differences, ${flavor}`);
process.exit(bad > 0 ? 1 : 0);
