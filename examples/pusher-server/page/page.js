// The page of the demo: on the left a client of the server, on the right what the backend received.

const APP_KEY = 'demo-key';
const SUGGESTED = ['presence-lobby', 'private-chat', 'news', 'cache-prices'];
const NAMES = ['Ada', 'Grace', 'Alan', 'Edsger', 'Barbara', 'Donald'];
const SHOWN_BATCHES = 100;
const BURST = 5;

const me = (new URLSearchParams(location.search).get('name') || NAMES[0]).slice(0, 40);
const $ = (id) => document.getElementById(id);

// el makes an element. Text is only ever set as text: names and messages come from others.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== undefined));
  return node;
}

function notice(text) {
  $('notice').textContent = text;
  $('notice').hidden = false;
}

// ---- the client

const joined = new Map(); // channel name to its card
let pusher;

function connect() {
  if (!window.Pusher) {
    notice('pusher-js is missing. Run “npm ci --prefix e2e” in the folder of the example, or start the server with -pusher-js FILE; then reload this page.');
    showState('failed');
    return;
  }
  pusher = new Pusher(APP_KEY, {
    cluster: 'local',
    wsHost: location.hostname,
    wsPort: Number(location.port) || 80,
    forceTLS: false,
    enableStats: false,
    enabledTransports: ['ws'],
    channelAuthorization: { endpoint: 'demo/auth', transport: 'ajax', params: { name: me } },
  });
  pusher.connection.bind('state_change', ({ current }) => showState(current));
  pusher.connection.bind('error', (e) => {
    const fault = e.data ?? e.error?.data;
    if (fault?.message) notice(`The server says: ${fault.message} (${fault.code ?? 'no code'})`);
  });
}

function showState(state) {
  $('status').dataset.state = state;
  $('state').textContent = state === 'connected' ? `connected · socket ${pusher.connection.socket_id}` : state;
}

function kindOf(name) {
  const cache = /^(private-|presence-|private-encrypted-)?cache-/.test(name) ? ' · cache' : '';
  for (const kind of ['presence', 'private']) if (name.startsWith(`${kind}-`)) return kind + cache;
  return `public${cache}`;
}

function join(name) {
  if (!pusher || joined.has(name)) return;
  $('notice').hidden = true;
  const channel = pusher.subscribe(name);
  const card = channelCard(name, channel);
  joined.set(name, card);
  $('channels').prepend(card);
  suggest();
}

function leave(name) {
  pusher.unsubscribe(name);
  joined.get(name)?.remove();
  joined.delete(name);
  suggest();
}

function channelCard(name, channel) {
  const kind = el('span', { class: 'kind' }, kindOf(name));
  const members = el('ul', { class: 'members', 'aria-label': 'Members', hidden: '' });
  const log = el('ol', { class: 'log' });
  const say = (who, text) => {
    log.append(el('li', who ? {} : { class: 'note' }, who ? el('b', {}, who) : undefined, text));
    log.scrollTop = log.scrollHeight;
  };
  const listing = () => {
    const items = [];
    channel.members.each((member) => items.push(memberItem(member)));
    members.replaceChildren(...items);
    members.hidden = false;
  };
  const card = el('article', { class: 'card channel', 'data-channel': name },
    el('header', {}, el('h3', {}, name), kind,
      el('button', { type: 'button', class: 'quiet leave', onclick: () => leave(name) }, 'Leave')),
    members, log, sendForm(name, channel, say));
  channel.bind('pusher:subscription_succeeded', () => {
    card.dataset.ready = '';
    if (channel.members) listing();
  });
  channel.bind('pusher:subscription_count', ({ subscription_count: n }) => {
    kind.textContent = `${kindOf(name)} · ${n} subscriber${n === 1 ? '' : 's'}`;
  });
  channel.bind('pusher:member_added', (member) => { listing(); say('', `${member.info?.name ?? member.id} joined`); });
  channel.bind('pusher:member_removed', (member) => { listing(); say('', `${member.info?.name ?? member.id} left`); });
  channel.bind('pusher:cache_miss', () => say('', 'the cache is empty'));
  channel.bind('pusher:subscription_error', ({ error }) => say('', `not joined: ${error}`));
  channel.bind('client-message', (data, { user_id: user } = {}) => say(user ?? 'another client', String(data?.text)));
  channel.bind('message', (data) => say('backend', String(data?.text)));
  return card;
}

function memberItem({ id, info }) {
  const name = info?.name ?? id;
  const hue = [...id].reduce((sum, c) => sum + c.codePointAt(0), 0) % 6;
  return el('li', {}, el('span', { class: `avatar hue${hue}`, 'aria-hidden': 'true' }, [...name][0].toUpperCase()), id === me ? `${name} (you)` : name);
}

// sendForm has what the channel allows: clients may send on private and presence channels, the backend on all.
function sendForm(name, channel, say) {
  const input = el('input', { 'aria-label': `Message for ${name}`, placeholder: 'Message', maxlength: '500', value: '' });
  const message = () => input.value.trim() || 'hello';
  const send = (text) => {
    if (channel.trigger('client-message', { text })) say(me, text);
  };
  const publish = async () => {
    const body = JSON.stringify({ name: 'message', channel: name, data: JSON.stringify({ text: message() }) });
    const answer = await fetch('demo/publish', { method: 'POST', body });
    if (!answer.ok) say('', `not published: ${await answer.text()}`);
    input.value = '';
  };
  const toBackend = el('button', { type: 'button', title: 'The backend publishes it, over the HTTP API', onclick: publish }, 'Publish');
  if (!/^(private|presence)-/.test(name)) {
    toBackend.classList.add('primary');
    toBackend.type = 'submit';
    return el('form', { class: 'field', onsubmit: (e) => e.preventDefault() }, input, toBackend);
  }
  const burst = () => {
    for (let i = 1; i <= BURST; i++) send(`${message()} ${i}`);
    input.value = '';
  };
  const submit = (e) => {
    e.preventDefault();
    send(message());
    input.value = '';
  };
  return el('form', { class: 'field', onsubmit: submit }, input,
    el('button', { class: 'primary', title: 'A client event' }, 'Send'),
    el('button', { type: 'button', title: `${BURST} client events at once`, onclick: burst }, `Send ${BURST}`),
    toBackend);
}

function suggest() {
  $('suggestions').replaceChildren(...SUGGESTED.filter((name) => !joined.has(name))
    .map((name) => el('button', { type: 'button', onclick: () => join(name) }, name)));
}

// ---- the backend

const totals = { requests: 0, events: 0 };
let last = 0;

function listen() {
  const source = new EventSource('demo/webhooks');
  source.onmessage = ({ data }) => show(JSON.parse(data));
}

function show(batch) {
  if (batch.n <= last) { // a server that has been started anew
    $('batches').replaceChildren();
    totals.requests = totals.events = 0;
  }
  last = batch.n;
  totals.requests += 1;
  totals.events += batch.body.events.length;
  $('requests').textContent = totals.requests;
  $('events').textContent = totals.events;
  $('ratio').textContent = (totals.events / totals.requests).toFixed(1);
  $('empty').hidden = true;
  $('batches').prepend(batchCard(batch));
  while ($('batches').children.length > SHOWN_BATCHES) $('batches').lastChild.remove();
}

function batchCard(batch) {
  const { events } = batch.body;
  const received = new Date(batch.received);
  const clock = `${received.toLocaleTimeString('en-GB')}.${String(received.getMilliseconds()).padStart(3, '0')}`;
  const body = el('pre', { hidden: '' }, `Webhook-Id: ${batch.id}\n\n${JSON.stringify(batch.body, null, 2)}`);
  const toggle = ({ currentTarget: button }) => {
    body.hidden = !body.hidden;
    button.setAttribute('aria-expanded', String(!body.hidden));
  };
  return el('article', { class: 'card batch new' },
    el('header', {},
      el('strong', {}, `#${batch.n}`),
      el('span', {}, `${events.length} event${events.length === 1 ? '' : 's'}, ${batch.bytes} bytes`),
      el('span', { class: 'verified' }, 'signature verified'),
      el('time', { datetime: batch.received }, clock),
      el('button', { type: 'button', class: 'quiet body', 'aria-expanded': 'false', onclick: toggle }, 'Body')),
    el('ul', { class: 'rows' }, ...events.map(eventRow)), body);
}

function eventRow(e) {
  return el('li', { class: e.name, 'data-type': e.name, 'data-channel': e.channel },
    el('span', { class: 'type' }, e.name),
    el('span', { class: 'mono' }, e.channel),
    el('span', { class: 'detail' }, detail(e)));
}

function detail(e) {
  switch (e.name) {
    case 'member_added': case 'member_removed': return e.user_id;
    case 'subscription_count': return `${e.subscription_count} subscriber${e.subscription_count === 1 ? '' : 's'}`;
    case 'client_event': return `${e.user_id ? `${e.user_id}: ` : ''}${messageIn(e.data) ?? `${e.event} ${e.data ?? ''}`}`;
    default: return '';
  }
}

// messageIn returns the text of a message that this page sent.
function messageIn(data) {
  try {
    return JSON.parse(data).text;
  } catch {
    return undefined;
  }
}

// ---- start

$('me').textContent = me;
$('same').href = `?name=${encodeURIComponent(me)}`;
$('other').href = `?name=${encodeURIComponent(NAMES.find((name) => name !== me))}`;
$('join').addEventListener('submit', (e) => {
  e.preventDefault();
  join($('channel').value.trim());
  $('channel').value = '';
});
suggest();
connect();
listen();
