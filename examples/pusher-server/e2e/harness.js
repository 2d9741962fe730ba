// What the tests share: the server as a process, backends that receive its webhooks, and pusher-js as a client.
// Everything is on loopback, ends with the test that started it, and is waited for with a deadline.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import express from 'express';
import Pusher from 'pusher';
import PusherClient from 'pusher-js';

const PATIENCE = 10_000;

for (const name of Object.keys(process.env)) {
  if (/^((https?|all|no)_proxy|(soketi_)?webhooks_.*)$/i.test(name)) delete process.env[name];
}

// program names what e2e/run has built.
function program(variable) {
  const path = process.env[variable];
  if (!path) throw new Error(`${variable} is not set: start the tests with e2e/run`);
  return path;
}

// within fails when a promise takes too long.
export async function within(promise, what, ms = PATIENCE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${typeof what === 'function' ? what() : what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

export async function temporaryFolder(t) {
  const folder = await mkdtemp(join(tmpdir(), 'pusher-server-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

// app makes an app of soketi's format.
export function app(webhooks, more = {}) {
  return { id: 'app', key: 'key', secret: 'secret', enableClientMessages: true, webhooks, ...more };
}

export const ALL = [
  'channel_occupied', 'channel_vacated', 'member_added', 'member_removed', 'client_event', 'cache_miss', 'subscription_count',
];

// startServer runs the server until the test ends or stop is called.
export async function startServer(t, apps, { env = {}, args = [], state } = {}) {
  const folder = await temporaryFolder(t);
  const arguments_ = ['-listen', '127.0.0.1:0', '-state', state ?? join(folder, 'undelivered'), ...args];
  if (apps) {
    const config = join(folder, 'apps.json');
    await writeFile(config, JSON.stringify({ 'appManager.array.apps': apps }));
    arguments_.push('-config', config);
  }
  const child = spawn(program('PUSHER_SERVER'), arguments_, { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'pipe'] });
  const exited = once(child, 'exit');
  const log = [];
  const url = new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on('line', (line) => {
      log.push(line);
      const found = /msg=listening url=(\S+)/.exec(line);
      if (found) resolve(new URL(found[1]));
    });
    exited.then(() => reject(new Error(`the server ended:\n${log.join('\n')}`)));
  });
  const stop = async () => {
    child.kill('SIGTERM');
    const [code] = await within(exited, () => `exit of the server:\n${log.join('\n')}`, 2 * PATIENCE);
    return code;
  };
  t.after(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await exited;
    }
  });
  return { url: await within(url, 'the server listens'), stop, log };
}

// An Inbox collects what a backend accepted and what it refused.
class Inbox {
  requests = [];
  refused = [];
  #wake = [];

  add(request) {
    (request.error ? this.refused : this.requests).push(request);
    this.#wake.splice(0).forEach((wake) => wake());
  }

  get events() {
    const seen = new Set();
    return this.requests.flatMap((r) => (seen.has(r.id) ? [] : (seen.add(r.id), r.events)));
  }

  // of lists the events of one channel, in short: "member_added ada".
  of(channel) {
    return this.events.filter((e) => e.channel === channel).map(short);
  }

  async until(done, what) {
    const wait = async () => {
      while (!done(this)) await new Promise((wake) => this.#wake.push(wake));
    };
    const state = () => `${what}; refused: ${JSON.stringify(this.refused)}; events:\n${this.events.map((e) => `${e.channel}: ${short(e)}`).join('\n')}`;
    await within(wait(), state);
  }
}

function short(e) {
  const count = e.name === 'subscription_count' ? e.subscription_count : undefined;
  return [e.name, e.event, e.user_id, count].filter((part) => part !== undefined).join(' ');
}

// startNodeBackend is an express app that verifies with Pusher's official package. While its status is not 200
// it takes nothing.
export async function startNodeBackend(t, { key = 'key', secret = 'secret' } = {}) {
  const inbox = new Inbox();
  const pusher = new Pusher({ appId: 'app', key, secret, cluster: 'local' });
  const backend = express();
  inbox.status = 200;
  backend.post('/webhooks', express.raw({ type: () => true, limit: '2mb' }), (req, res) => {
    const webhook = pusher.webhook({ headers: req.headers, rawBody: req.body.toString('utf8') });
    if (!webhook.isValid()) {
      inbox.add({ error: `invalid: ${req.body}` });
      res.sendStatus(401);
      return;
    }
    if (inbox.status === 200) {
      inbox.add({ id: req.get('webhook-id'), headers: req.headers, events: webhook.getEvents(), time: webhook.getTime() });
    }
    res.sendStatus(inbox.status);
  });
  const listener = backend.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => {
    listener.close();
    listener.closeAllConnections();
  });
  inbox.url = `http://127.0.0.1:${listener.address().port}/webhooks`;
  return inbox;
}

// startGoBackend is a program that verifies with Pusher's official Go library.
export async function startGoBackend(t, { key = 'key', secret = 'secret' } = {}) {
  const inbox = new Inbox();
  const child = spawn(program('GO_RECEIVER'), ['-key', key, '-secret', secret], { stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const url = new Promise((resolve, reject) => {
    exited.then(() => reject(new Error('the Go backend ended')));
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (inbox.url) {
        inbox.add(JSON.parse(line));
      } else {
        inbox.url = line;
        resolve();
      }
    });
  });
  t.after(async () => {
    child.stdin.end();
    await within(exited, 'exit of the Go backend');
  });
  await within(url, 'the Go backend listens');
  return inbox;
}

// publisher is Pusher's official package, speaking to the server's HTTP API.
export function publisher(server, { id = 'app', key = 'key', secret = 'secret' } = {}) {
  return new Pusher({ appId: id, key, secret, host: server.url.hostname, port: server.url.port, useTLS: false });
}

// newClient is pusher-js for a user that the official package authorises.
export function newClient(t, server, user, { key = 'key', secret = 'secret' } = {}) {
  const pusher = publisher(server, { key, secret });
  const client = new PusherClient(key, {
    cluster: 'local',
    wsHost: server.url.hostname,
    wsPort: Number(server.url.port),
    forceTLS: false,
    enableStats: false,
    enabledTransports: ['ws'],
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, done) => {
        const presence = channelName.startsWith('presence-') ? { user_id: user, user_info: { name: user.toUpperCase() } } : undefined;
        done(null, pusher.authorizeChannel(socketId, channelName, presence));
      },
    },
  });
  t.after(() => client.disconnect());
  return client;
}

// connect opens a socket and waits for it.
export async function connect(t, server, user, credentials) {
  const client = newClient(t, server, user, credentials);
  await event(client.connection, 'connected', `${user} connects`);
  return client;
}

// errorCode waits for the next error of a socket and returns Pusher's code.
export async function errorCode(client) {
  const error = await event(client.connection, 'error');
  return error.data?.code ?? error.error?.data?.code;
}

// event waits for the next event that matches, on a connection or a channel of pusher-js.
export function event(target, name, what = name, matches = () => true) {
  let heard;
  const next = new Promise((resolve) => {
    heard = (data) => matches(data) && resolve(data);
    target.bind(name, heard);
  });
  return within(next, what).finally(() => target.unbind(name, heard));
}

// join subscribes and waits for the answer.
export async function subscribe(client, name) {
  const channel = client.subscribe(name);
  await event(channel, 'pusher:subscription_succeeded', `subscription to ${name}`);
  return channel;
}
