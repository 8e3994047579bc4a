// SPDX-License-Identifier: Apache-2.0
// Drives the page at / in a headless Chromium; test_page.py reads the JSON that it prints.
'use strict';

const { chromium } = require('playwright-core');

const [executablePath, url, step, argument, patience] = process.argv.slice(2);
const DEFAULT = 'The capital of France is';

const isShown = (page, selector) => page.waitForSelector(`${selector}:not([hidden])`);
const text = (page, selector) => page.locator(selector).textContent();

// As an assistive device would: by what is focused, and keys alone.
async function tabTo(page, id) {
  for (let i = 0; i < 40; i++) {
    if (await page.evaluate(() => document.activeElement.id) === id) return;
    await page.keyboard.press('Tab');
  }
  throw new Error(`${id} is not reached by Tab`);
}

async function finished(page) {
  await page.waitForFunction(() => !document.getElementById('run').disabled);
  return { answer: await text(page, '#answer'), result: await text(page, '#result') };
}

async function enterKey(page, key) {
  await isShown(page, '#key-form');
  await page.fill('#key', key);
  await page.keyboard.press('Enter');
}

// WCAG's contrast of every text that is shown against the nearest background behind it.
function contrasts() {
  const parts = (color) => color.match(/[\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parts(color).map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((parts(color)[3] ?? 1) === 1) return color;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  return [...document.querySelectorAll('h1, h2, p, span, small, label, button:not(:disabled), textarea, input, pre')]
    .filter((e) => e.checkVisibility())
    .map((e) => {
      const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
      return { element: e.id || e.outerHTML.slice(0, 60), ratio: (a + 0.05) / (b + 0.05) };
    });
}

const steps = {
  async numbers(page) {
    await isShown(page, '#numbers');
    await page.waitForTimeout(2500);
    const shown = {};
    for (const id of ['state', 'model', 'running', 'waiting', 'pages', 'pages-used', 'memory', 'ttft50', 'build']) {
      shown[id] = await text(page, `#${id}`);
    }
    shown.line = await page.locator('#spark-running .line').getAttribute('d');
    return shown;
  },
  async complete(page) {
    await page.fill('#max-tokens', '24');
    await page.click('#run');
    const done = await finished(page);
    await page.waitForFunction(() => document.getElementById('ttft50').textContent.endsWith('s'));
    return { ...done, ttft: await text(page, '#ttft50'), itl: await text(page, '#itl50') };
  },
  async keyboard(page) {
    await isShown(page, '#numbers');
    await tabTo(page, 'prompt');
    await page.keyboard.press('Control+A');
    await page.keyboard.type(DEFAULT);
    await tabTo(page, 'max-tokens');
    await page.keyboard.press('Control+A');
    await page.keyboard.type('4');
    await tabTo(page, 'run');
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    await page.keyboard.press('Enter');
    return { outline, ...await finished(page) };
  },
  async stop(page) {
    await page.fill('#max-tokens', '4000');
    await page.click('#run');
    await page.waitForFunction(() => document.getElementById('answer').textContent.length > 20);
    await page.click('#stop');
    return finished(page);
  },
  async refused(page) {
    await page.fill('#prompt', 'a '.repeat(40000));
    await page.click('#run');
    return finished(page);
  },
  async key(page) {
    await enterKey(page, 'sk-wrong');
    await page.waitForFunction(() => document.getElementById('key-error').textContent);
    const error = await text(page, '#key-error');
    await enterKey(page, argument);
    await isShown(page, '#numbers');
    await page.fill('#max-tokens', '4');
    await page.click('#run');
    const done = await finished(page);
    await page.reload();
    await isShown(page, '#numbers');
    const kept = await page.evaluate(() => ({ session: sessionStorage.length, local: localStorage.length,
      cookie: document.cookie, url: location.href }));
    await page.click('#forget');
    await isShown(page, '#key-form');
    return { error, ...done, kept, numbers: await page.locator('#numbers').isVisible(),
      session: await page.evaluate(() => sessionStorage.length) };
  },
  async elsewhere(page) {
    await isShown(page, '#elsewhere');
    return { numbers: await page.locator('#numbers').isVisible() };
  },
  async text(page) {
    await isShown(page, '#numbers');
    return { model: await text(page, '#model'), images: await page.locator('img').count() };
  },
  async narrow(page) {
    await page.setViewportSize({ width: 360, height: 700 });
    await isShown(page, '#numbers');
    return page.evaluate(() => ({ width: document.documentElement.scrollWidth,
      cut: [...document.querySelectorAll('.card, .value, .sub, button')]
        .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1).map((e) => e.outerHTML.slice(0, 80)) }));
  },
  async colours(page) {
    const found = {};
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      await isShown(page, '#numbers');
      found[colorScheme] = await page.evaluate(contrasts);
    }
    return found;
  },
};

async function main() {
  // The sandbox needs rights that containers do not give; there is no page here but ours.
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
  const page = await browser.newPage();
  const complaints = [];
  const requests = new Set();
  page.setDefaultTimeout(Number(patience) * 1000);
  page.on('console', (m) => complaints.push(`${m.type()}: ${m.text()}`));
  page.on('pageerror', (e) => complaints.push(e.message));
  page.on('request', (r) => requests.add(r.url()));
  try {
    await page.goto(url);
    const result = await steps[step](page);
    process.stdout.write(JSON.stringify({ ...result, complaints, requests: [...requests] }));
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
});
