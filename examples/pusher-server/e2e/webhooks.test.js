// The server with Pusher's own libraries on every side of it: pusher-js as the client, pusher (Node) as the
// publisher and as one backend, pusher-http-go as the other.

import assert from 'node:assert/strict';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  ALL, app, connect, errorCode, event, newClient, publisher, startGoBackend, startNodeBackend, startServer, subscribe, temporaryFolder,
} from './harness.js';

// bothBackends starts them, with a server whose app sends everything to both.
async function bothBackends(t, options) {
  const backends = await Promise.all([startNodeBackend(t), startGoBackend(t)]);
  const server = await startServer(t, [app(backends.map(({ url }) => ({ url, event_types: ALL })))], options);
  return { backends, server };
}

function nothingRefused(backends) {
  for (const inbox of backends) assert.deepEqual(inbox.refused, []);
}

for (const batching of [true, false]) {
  test(`every type of event, batching ${batching ? 'on' : 'off'}`, async (t) => {
    const env = batching ? { WEBHOOKS_BATCHING: 'true', WEBHOOKS_BATCHING_DURATION: '200' } : {};
    const { backends, server } = await bothBackends(t, { env, args: ['-pusher-timing=false'] });
    const [ada, ada2, bob] = await Promise.all(['ada', 'ada', 'bob'].map((user) => connect(t, server, user)));

    await presence(ada, ada2, bob);
    await privateEvents(ada, bob);
    await counts(ada, bob);
    await cache(ada, bob, publisher(server));

    for (const inbox of backends) {
      // The Go library has no field for subscription_count's number.
      const count = (n) => (inbox === backends[0] ? `subscription_count ${n}` : 'subscription_count');
      const expected = {
        'presence-room': [
          'channel_occupied', 'member_added ada', 'member_added bob', 'client_event client-wave ada',
          'member_removed ada', 'member_removed bob', 'channel_vacated',
        ],
        'private-chat': ['channel_occupied', count(1), count(2), 'client_event client-hi', count(1), count(0), 'channel_vacated'],
        'a-round-trip': ['channel_occupied', count(1), count(0), 'channel_vacated'],
        news: ['channel_occupied', count(1), count(2), count(1), count(0), 'channel_vacated'],
        'cache-prices': ['channel_occupied', count(1), 'cache_miss', count(2)],
      };
      const all = Object.values(expected).flat().length;
      await inbox.until(() => inbox.events.length >= all, `${all} events`);
      for (const [channel, events] of Object.entries(expected)) assert.deepEqual(inbox.of(channel), events, channel);
      assert.equal(inbox.events.length, all);
      assert.deepEqual(new Set(inbox.events.map((e) => e.name)), new Set(ALL));
      assertClientEvent(inbox, ada);
      if (batching) {
        assert.ok(inbox.requests.length < all, `${inbox.requests.length} requests for ${all} events`);
      } else {
        assert.equal(inbox.requests.length, all);
      }
    }
    nothingRefused(backends);
  });
}

// presence: two sockets of one user are one member.
async function presence(ada, ada2, bob) {
  const first = await subscribe(ada, 'presence-room');
  const second = await subscribe(ada2, 'presence-room');
  assert.equal(second.members.count, 1);
  assert.equal(second.members.me.info.name, 'ADA');
  const joined = event(first, 'pusher:member_added');
  const bobs = await subscribe(bob, 'presence-room');
  assert.equal((await joined).id, 'bob');
  assert.equal(bobs.members.count, 2);

  const waved = event(bobs, 'client-wave');
  first.trigger('client-wave', { text: '<b>“hi” & 👋</b>', line: '\u2028' });
  assert.deepEqual(await waved, { text: '<b>“hi” & 👋</b>', line: '\u2028' });

  const left = event(bobs, 'pusher:member_removed');
  ada.unsubscribe('presence-room');
  await subscribe(ada, 'a-round-trip'); // so that the server knows
  ada.unsubscribe('a-round-trip');
  assert.equal(bobs.members.count, 2);
  ada2.unsubscribe('presence-room');
  assert.equal((await left).id, 'ada');
  assert.equal(bobs.members.count, 1);
  bob.unsubscribe('presence-room');
}

function assertClientEvent(inbox, ada) {
  const [wave] = inbox.events.filter((e) => e.event === 'client-wave');
  assert.deepEqual(JSON.parse(wave.data), { text: '<b>“hi” & 👋</b>', line: '\u2028' });
  assert.equal(wave.user_id, 'ada');
  assert.equal(wave.socket_id, ada.connection.socket_id);
  const [hi] = inbox.events.filter((e) => e.event === 'client-hi');
  assert.equal(hi.data, 'just text');
  assert.equal(hi.user_id, undefined);
}

async function privateEvents(ada, bob) {
  const from = await subscribe(ada, 'private-chat');
  const to = await subscribe(bob, 'private-chat');
  const heard = event(to, 'client-hi');
  from.trigger('client-hi', 'just text');
  assert.equal(await heard, 'just text');
  ada.unsubscribe('private-chat');
  await event(to, 'pusher:subscription_count');
  bob.unsubscribe('private-chat');
}

async function counts(ada, bob) {
  const first = await subscribe(ada, 'news');
  await subscribe(bob, 'news');
  const left = event(first, 'pusher:subscription_count', 'a count of 1', (data) => data.subscription_count === 1);
  bob.unsubscribe('news');
  await left;
  ada.unsubscribe('news');
}

async function cache(ada, bob, pusher) {
  const first = ada.subscribe('cache-prices');
  await event(first, 'pusher:cache_miss');
  const priced = event(first, 'price');
  await pusher.trigger('cache-prices', 'price', { eur: 12.5 });
  assert.deepEqual(await priced, { eur: 12.5 });
  const replayed = bob.subscribe('cache-prices');
  assert.deepEqual(await event(replayed, 'price', 'replay of the cached event'), { eur: 12.5 });
}

test('filters: prefix and suffix, event types', async (t) => {
  const [filtered, everything] = await Promise.all([startNodeBackend(t), startGoBackend(t)]);
  const server = await startServer(t, [app([
    {
      url: filtered.url,
      event_types: ['channel_occupied', 'client_event'],
      filter: { channel_name_starts_with: 'private-', channel_name_ends_with: '-eu' },
      headers: { 'X-Custom': 'yes' },
    },
    { url: everything.url, event_types: ALL },
  ])], { env: { WEBHOOKS_BATCHING: 'true' } });
  const ada = await connect(t, server, 'ada');
  for (const name of ['private-orders-us', 'orders-eu', 'private-eu-orders', 'private-orders-eu']) {
    const channel = await subscribe(ada, name);
    if (name.startsWith('private-')) channel.trigger('client-hi', {});
  }
  await everything.until(() => everything.events.length >= 4 * 2 + 3, 'all events at the backend that wants them');
  await filtered.until(() => filtered.events.length >= 2, 'its two events at the other');
  assert.deepEqual(filtered.events.map((e) => `${e.channel} ${e.name}`), [
    'private-orders-eu channel_occupied', 'private-orders-eu client_event',
  ]);
  assert.equal(filtered.requests[0].headers['x-custom'], 'yes');
  nothingRefused([filtered, everything]);
});

test('who reconnects within the grace has not left, who stays away has', async (t) => {
  const { backends, server } = await bothBackends(t);
  const [ada, bob, cem] = await Promise.all(['ada', 'bob', 'cem'].map((user) => connect(t, server, user)));
  const room = await subscribe(bob, 'presence-room');
  await subscribe(ada, 'presence-room');
  await subscribe(cem, 'presence-room');

  // The other clients are told at once, whoever comes back.
  const member = (what, id) => event(room, `pusher:member_${what}`, `${id} ${what}`, (data) => data.id === id);
  const [adaLeft, adaBack] = [member('removed', 'ada'), member('added', 'ada')];
  ada.disconnect();
  await adaLeft;
  ada.connect(); // pusher-js subscribes again by itself
  await adaBack;

  const cemLeft = member('removed', 'cem');
  const leaving = performance.now();
  cem.disconnect();
  await cemLeft;
  await Promise.all(backends.map(async (inbox) => {
    await inbox.until(() => inbox.of('presence-room').includes('member_removed cem'), 'cem leaves');
    const waited = performance.now() - leaving;
    assert.ok(waited >= 3000, `a grace of ${waited} ms`);
    // Ada left first: a webhook about her would have come before.
    assert.deepEqual(inbox.of('presence-room').toSorted(), [
      'channel_occupied', 'member_added ada', 'member_added bob', 'member_added cem', 'member_removed cem',
    ]);
  }));
  const metrics = await (await fetch(new URL('metrics', server.url))).text();
  assert.match(metrics, /^webhook_events_suppressed_total 2$/m);
  assert.match(metrics, /^webhook_held_events 0$/m);
  nothingRefused(backends);
});

test('SIGTERM with events pending: all arrive, and the sockets are told to come back', async (t) => {
  const env = { WEBHOOKS_BATCHING: 'true', WEBHOOKS_BATCHING_DURATION: '600000' };
  const { backends, server } = await bothBackends(t, { env });
  const clients = await Promise.all(['ada', 'bob', 'cem', 'dee', 'eve'].map((user) => connect(t, server, user)));
  const rooms = await Promise.all(clients.map((client) => subscribe(client, 'presence-room')));
  rooms.forEach((room, i) => room.trigger('client-number', { i }));
  const last = event(rooms[0], 'client-last');
  rooms[4].trigger('client-last', {});
  await last; // the server has them all
  for (const inbox of backends) assert.equal(inbox.requests.length, 0, 'the window is ten minutes');
  const told = clients.map(errorCode);
  assert.equal(await server.stop(), 0, server.log.join('\n'));
  assert.deepEqual(new Set(await Promise.all(told)), new Set([4200]));
  for (const inbox of backends) {
    // occupied; for each of five added, client event, removed; the last client event; vacated
    await inbox.until(() => inbox.events.length >= 18, 'all that happened');
    const events = inbox.of('presence-room');
    assert.equal(events.length, 18);
    assert.equal(events[0], 'channel_occupied');
    assert.equal(events[17], 'channel_vacated');
    for (const user of ['ada', 'bob', 'cem', 'dee', 'eve']) {
      const [added, sent, removed] = [`member_added ${user}`, `client_event client-number ${user}`, `member_removed ${user}`].map((e) => events.indexOf(e));
      assert.ok(added > 0 && added < sent && sent < removed, `${user}: ${added}, ${sent}, ${removed}`);
    }
  }
  nothingRefused(backends);
});

test('a backend that is down at the shutdown gets its webhooks after the next start', async (t) => {
  const backend = await startNodeBackend(t);
  backend.status = 503;
  const state = join(await temporaryFolder(t), 'undelivered');
  const apps = [app([{ url: backend.url, event_types: ['channel_occupied', 'channel_vacated'] }])];
  const first = await startServer(t, apps, { state, args: ['-shutdown', '1s'] });
  const ada = await connect(t, first, 'ada');
  await subscribe(ada, 'news');
  assert.equal(await first.stop(), 1);
  assert.equal(backend.requests.length, 0);
  const [file, ...others] = (await readdir(state)).filter((name) => name.endsWith('.spool'));
  assert.deepEqual(others, []);
  assert.equal((await stat(join(state, file))).mode & 0o777, 0o600);

  backend.status = 200;
  const second = await startServer(t, apps, { state });
  await backend.until(() => backend.events.length >= 2, 'what the first run left');
  assert.deepEqual(backend.of('news'), ['channel_occupied', 'channel_vacated']);
  assert.equal(await second.stop(), 0, second.log.join('\n'));
  assert.deepEqual(await readdir(state), ['lock']);
});

test('the HTTP API, spoken by the official package', async (t) => {
  const server = await startServer(t, [app([])]);
  const pusher = publisher(server);
  const [ada, bob] = await Promise.all([connect(t, server, 'ada'), connect(t, server, 'bob')]);
  const [toAda, toBob] = await Promise.all([subscribe(ada, 'news'), subscribe(bob, 'news')]);
  const heard = [];
  toAda.bind_global((name, data) => name.startsWith('pusher:') || heard.push([name, data]));
  const batch = event(toAda, 'three');
  const excluded = event(toBob, 'one');
  await pusher.trigger(['news', 'other'], 'one', { n: 1 }, { socket_id: ada.connection.socket_id });
  await pusher.triggerBatch([{ channel: 'news', name: 'two', data: 'text' }, { channel: 'news', name: 'three', data: [3] }]);
  await Promise.all([batch, excluded]);
  assert.deepEqual(heard, [['two', 'text'], ['three', [3]]], 'not "one": ada has sent it');

  const answer = await pusher.get({ path: '/channels', params: { filter_by_prefix: 'ne', info: 'subscription_count' } });
  assert.deepEqual(await answer.json(), { channels: { news: { subscription_count: 2 } } });
  await assert.rejects(publisher(server, { secret: 'wrong' }).trigger('news', 'one', {}), { status: 401 });
  await assert.rejects(publisher(server, { id: 'nobody' }).trigger('news', 'one', {}), { status: 404 });
});

test('channels and their members, asked by the official package', async (t) => {
  const server = await startServer(t, [app([])]);
  const [ada, tab, bob] = await Promise.all(['ada', 'ada', 'bob'].map((user) => connect(t, server, user)));
  for (const client of [ada, tab, bob]) await subscribe(client, 'presence-room');
  await subscribe(bob, 'news');
  const ask = async (path, params) => (await publisher(server).get({ path, params })).json();
  assert.deepEqual(await ask('/channels', {}), { channels: { 'presence-room': {}, news: {} } });
  assert.deepEqual(await ask('/channels', { filter_by_prefix: 'presence-', info: 'user_count' }), { channels: { 'presence-room': { user_count: 2 } } });
  assert.deepEqual(await ask('/channels/presence-room', { info: 'user_count,subscription_count' }),
    { occupied: true, user_count: 2, subscription_count: 3 });
  assert.deepEqual(await ask('/channels/vacant', {}), { occupied: false });
  assert.deepEqual(await ask('/channels/presence-room/users', {}), { users: [{ id: 'ada' }, { id: 'bob' }] });
  await assert.rejects(ask('/channels/news/users', {}), { status: 400 });
});

test('errors by their codes', async (t) => {
  const server = await startServer(t, [app([], { enableClientMessages: false }), app([], { id: 'off', key: 'off', enabled: false })]);
  for (const [key, code] of [['nobody', 4001], ['off', 4003]]) {
    assert.equal(await errorCode(newClient(t, server, 'ada', { key })), code, key);
  }
  const stranger = await connect(t, server, 'eve', { secret: 'wrong' });
  const unauthorized = errorCode(stranger);
  const refused = event(stranger.subscribe('private-chat'), 'pusher:subscription_error');
  assert.equal(await unauthorized, 4009);
  assert.equal((await refused).status, 401);

  const ada = await connect(t, server, 'ada');
  const chat = await subscribe(ada, 'private-chat');
  const rejected = errorCode(ada);
  chat.trigger('client-hi', {});
  assert.equal(await rejected, 4301);
});

test('pusher-js at the limits: ten client events a second, and two hundred channels at once', async (t) => {
  const server = await startServer(t, [app([])]);
  const [ada, bob] = await Promise.all([connect(t, server, 'ada'), connect(t, server, 'bob')]);
  const [chat, heard] = await Promise.all([subscribe(ada, 'private-chat'), subscribe(bob, 'private-chat')]);
  const numbers = [];
  heard.bind('client-number', ({ n }) => numbers.push(n));
  const rejected = errorCode(ada);
  for (let n = 0; n < 15; n++) chat.trigger('client-number', { n });
  assert.equal(await rejected, 4301);
  assert.equal(ada.connection.state, 'connected');
  await Promise.all(Array.from({ length: 200 }, (_, n) => subscribe(bob, `room${n}`)));
  assert.deepEqual(numbers.slice(0, 10), [...Array(10).keys()]);
});
