// Sends numbered events with the official clients while the service restarts and Postgres is away, and reports what each client gave up.
//
// usage: node clients.js URL KEY EVENTS MILLISECONDS_BETWEEN
import { Analytics } from '@segment/analytics-node';
import { SeverityNumber } from '@opentelemetry/api-logs';
import { OTLPLogExporter as JsonExporter } from '@opentelemetry/exporter-logs-otlp-http';
import { OTLPLogExporter as ProtobufExporter } from '@opentelemetry/exporter-logs-otlp-proto';
import { BatchLogRecordProcessor, LoggerProvider } from '@opentelemetry/sdk-logs';
import { CloudEvent, HTTP } from 'cloudevents';
import { PostHog } from 'posthog-node';

const [url, key, count, pause] = process.argv.slice(2);
const events = Number(count);
const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Calls `send` with each number, in the pace of all clients. */
async function each(send) {
  for (let n = 0; n < events; n += 1) {
    send(n);
    await sleep(Number(pause));
  }
}

async function segment() {
  const dropped = [];
  const analytics = new Analytics({ writeKey: key, host: url, flushInterval: 300 });
  analytics.on('error', ({ ctx }) => ctx && dropped.push(ctx.event.properties.n));
  await each((n) => analytics.track({ userId: 'u', event: 'segment', properties: { n } }));
  await analytics.closeAndFlush({ timeout: 60_000 });
  return dropped;
}

async function posthog() {
  const client = new PostHog(key, { host: url, flushInterval: 300 });
  const errors = [];
  client.on('error', (error) => errors.push(String(error)));
  await each((n) => client.capture({ distinctId: 'u', event: 'posthog', properties: { n } }));
  const flags = await client.getAllFlags('u');
  if (Object.keys(flags).length > 0) throw new Error(`flags: ${JSON.stringify(flags)}`);
  // What met an error of the network is still queued.
  for (let attempt = 0; attempt < 20; attempt += 1) {
    await client.flush().catch(() => {});
    if (!client.getPersistedProperty('queue')?.length) break;
    await sleep(500);
  }
  await client.shutdown(30_000);
  if (errors.length > 0) console.error('posthog:', errors);
  return [];
}

/** The client's messages, and retries of our own: its transport has none. */
async function cloudevents() {
  const sending = [];
  const post = async (message, route) => {
    for (;;) {
      const answer = await fetch(url + route, { method: 'POST', body: message.body, headers: { ...message.headers, 'x-api-key': key } }).catch(() => undefined);
      if (answer?.ok) return;
      if (answer && answer.status < 500 && answer.status !== 429) throw new Error(await answer.text());
      await sleep(300);
    }
  };
  await each((n) => {
    const event = new CloudEvent({ id: `${n}`, source: '/outside', type: 'cloudevents', data: { n } });
    const message = [
      () => HTTP.binary(event),
      () => HTTP.structured(event),
      () => ({ headers: { 'content-type': 'application/cloudevents-batch+json' }, body: JSON.stringify([event.toJSON()]) }),
    ][n % 3]();
    const route = n % 2 ? '/api/v1/events' : '/api/v1/events/batch';
    // Each twice: a repetition is stored once.
    sending.push(post(message, route), post(message, route));
  });
  await Promise.all(sending);
  return [];
}

async function otlp(name, Exporter, options) {
  const dropped = [];
  const exporter = new Exporter({ url: `${url}/v1/logs`, headers: { 'x-api-key': key }, ...options });
  const send = exporter.export.bind(exporter);
  exporter.export = (records, done) =>
    send(records, (result) => {
      if (result.code !== 0) {
        console.error(name, String(result.error));
        dropped.push(...records.map((record) => record.attributes.n));
      }
      done(result);
    });
  const provider = new LoggerProvider({ processors: [new BatchLogRecordProcessor({ exporter, scheduledDelayMillis: 300 })] });
  const logger = provider.getLogger('outside');
  await each((n) => logger.emit({ severityNumber: SeverityNumber.INFO, body: { nested: [n] }, attributes: { client: name, n } }));
  await provider.shutdown();
  return dropped;
}

const results = await Promise.all([
  segment(),
  posthog(),
  cloudevents(),
  otlp('otlp-json', JsonExporter, {}),
  otlp('otlp-protobuf', ProtobufExporter, { compression: 'gzip' }),
]);
const names = ['segment', 'posthog', 'cloudevents', 'otlp-json', 'otlp-protobuf'];
console.log(JSON.stringify(Object.fromEntries(names.map((name, place) => [name, results[place]]))));
process.exit(0);
