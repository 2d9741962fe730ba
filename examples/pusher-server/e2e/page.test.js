// The demo's page in a real browser: join, send, and see the webhooks arrive beside it.

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import { chromium } from 'playwright-core';
import { startServer } from './harness.js';

const PUSHER_JS = fileURLToPath(import.meta.resolve('pusher-js/dist/web/pusher.min.js'));

async function startBrowser(t) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--no-proxy-server', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    ],
  });
  t.after(() => browser.close());
  return browser;
}

// open opens the page and notes what it should not do: faults, and requests to anybody else.
async function open(browser, server, name, troubles, options = {}) {
  const page = await browser.newPage(options); // in a window of its own: what is hidden is throttled
  page.setDefaultTimeout(10_000);
  page.on('pageerror', (e) => troubles.push(String(e)));
  page.on('console', (m) => m.type() === 'error' && troubles.push(m.text()));
  page.on('request', (r) => /^(http:\/\/127\.0\.0\.1:|data:)/.test(r.url()) || troubles.push(r.url()));
  await page.goto(`${server.url}?name=${name}`);
  await page.locator('#status[data-state=connected]').waitFor();
  return page;
}

async function joinChannel(page, name) {
  await page.getByLabel('Join a channel').fill(name);
  await page.getByRole('button', { name: 'Join', exact: true }).click();
  const card = page.locator(`.channel[data-channel="${name}"][data-ready]`);
  await card.waitFor();
  return card;
}

async function send(card, text, button = 'Send') {
  await card.getByLabel(/^Message for/).fill(text);
  await card.getByRole('button', { name: button, exact: true }).click();
}

function row(page, type, channel, text = '') {
  return page.locator(`#batches [data-type=${type}][data-channel="${channel}"]`, { hasText: text });
}

test('join, send, and see the webhooks', async (t) => {
  const [server, browser] = await Promise.all([startServer(t, undefined, { args: ['-pusher-js', PUSHER_JS] }), startBrowser(t)]);
  const troubles = [];
  const looks = { viewport: { width: 1280, height: 960 }, deviceScaleFactor: process.env.SCREENSHOT ? 1.5 : 1, colorScheme: process.env.COLORS ?? 'light' };
  const ada = await open(browser, server, 'Ada', troubles, looks);
  const grace = await open(browser, server, 'Grace', troubles);

  await joinChannel(ada, 'news');
  await row(ada, 'subscription_count', 'news', '1 subscriber').waitFor();
  await ada.locator('.channel[data-channel=news]').getByRole('button', { name: 'Leave' }).click();
  await row(ada, 'channel_vacated', 'news').waitFor();
  const lobby = await joinChannel(ada, 'presence-lobby');
  await row(ada, 'member_added', 'presence-lobby', 'Ada').waitFor();
  const hers = await joinChannel(grace, 'presence-lobby');
  await lobby.getByText('Grace joined').waitFor();
  await row(ada, 'member_added', 'presence-lobby', 'Grace').waitFor();

  await send(lobby, 'Shall we ship it?');
  await hers.getByText('Shall we ship it?').waitFor();
  await row(ada, 'client_event', 'presence-lobby', 'Ada: Shall we ship it?').waitFor();
  await send(hers, 'Yes, <now> & here');
  await lobby.getByText('Yes, <now> & here').waitFor();
  await send(lobby, 'Step', 'Send 5');
  await row(ada, 'client_event', 'presence-lobby', 'Step 5').waitFor();

  const prices = await joinChannel(ada, 'cache-prices');
  await row(ada, 'cache_miss', 'cache-prices').waitFor();
  await send(prices, '12.50', 'Publish');
  await prices.getByText('12.50').waitFor();
  const replayed = await joinChannel(grace, 'cache-prices');
  await replayed.getByText('12.50').waitFor();
  await row(ada, 'subscription_count', 'cache-prices', '2 subscribers').waitFor();

  await ada.getByText('signature verified').first().waitFor();
  const [requests, events] = await Promise.all(['#requests', '#events'].map(async (id) => Number(await ada.locator(id).textContent())));
  assert.ok(requests < events, `${events} events in ${requests} requests`);
  assert.equal(events, await ada.locator('#batches .rows li').count());
  if (process.env.SCREENSHOT) {
    await ada.waitForFunction(() => document.getAnimations().length === 0);
    await ada.screenshot({ path: process.env.SCREENSHOT });
  }

  await grace.close(); // the browser closes her socket
  await row(ada, 'member_removed', 'presence-lobby', 'Grace').waitFor();
  await lobby.getByRole('button', { name: 'Leave' }).click();
  await row(ada, 'channel_vacated', 'presence-lobby').waitFor();
  assert.deepEqual(troubles, []);
});

test('without pusher-js the page says what to do', async (t) => {
  const [server, browser] = await Promise.all([startServer(t, undefined, { args: ['-pusher-js', 'missing.js'] }), startBrowser(t)]);
  const page = await browser.newPage();
  await page.goto(String(server.url));
  await page.getByText('npm ci --prefix e2e').waitFor({ timeout: 10_000 });
});
