'use strict';

// Drives soketi's own webhook sender and its default queue driver with as much of a server as they ask for.
// Its argument is the work to do, as JSON; what it prints is what it measured, as JSON.

const fs = require('fs');
const { WebhookSender } = require('./package/dist/webhook-sender.js');
const { SyncQueueDriver } = require('./package/dist/queues/sync-queue-driver.js');

const spec = JSON.parse(process.argv[2]);
const batching = spec.Batch > 1;

const app = {
  id: 'app-0',
  key: spec.Key,
  secret: spec.Secret,
  webhooks: [{ url: spec.URL, event_types: [spec.Type] }],
  hasMemberAddedWebhooks: true,
};

// Jobs that were queued, and those that are done. Whoever waits for a change is woken at every one.
let queued = 0;
let done = 0;
let wake = () => {};
const change = () => new Promise((resolve) => { wake = resolve; });

const server = {
  // The shortest window there is: its default of 50 ms would bound what is measured.
  options: { debug: false, instance: { process_id: process.pid }, webhooks: { batching: { enabled: batching, duration: 0 } } },
  appManager: { findByKey: () => Promise.resolve(app) },
  canProcessQueues: () => true,
};
const driver = new SyncQueueDriver(server);
server.queueManager = {
  processQueue: (name, callback) => driver.processQueue(name, callback),
  addToQueue: (name, data) => {
    queued++;
    wake();
    return driver.addToQueue(name, data).then(() => { done++; wake(); });
  },
};
const sender = new WebhookSender(server);

const channels = [];
const users = [];
for (let i = 0; i < spec.Names; i++) {
  channels.push('presence-room-' + String(i).padStart(4, '0'));
  users.push('user-' + String(i * 7).padStart(6, '0'));
}

// send emits n events, a batch at a time, and lets the next batch fill while the last is on its way.
async function send(n) {
  const atOnce = batching ? 2 : 64;
  for (let i = 0; i < n;) {
    const before = queued;
    for (let j = 0; j < spec.Batch && i < n; j++, i++) {
      sender.sendMemberAdded(app, channels[i % spec.Names], users[i % spec.Names]);
    }
    while (queued === before || queued - done >= atOnce) {
      await change();
    }
  }
  while (done < queued) {
    await change();
  }
}

function peakBytes() {
  try {
    const line = /VmHWM:\s+(\d+) kB/.exec(fs.readFileSync('/proc/self/status', 'utf8'));
    return Number(line[1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

async function main() {
  await send(spec.Warm);
  const cpu = process.cpuUsage();
  const started = process.hrtime.bigint();
  await send(spec.Events);
  const elapsed = process.hrtime.bigint() - started;
  const used = process.cpuUsage(cpu);
  process.stdout.write(JSON.stringify({
    ElapsedNS: Number(elapsed), CPUNS: (used.user + used.system) * 1000, PeakBytes: peakBytes(),
  }) + '\n');
  process.exit(0); // kept-alive connections would hold it
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
