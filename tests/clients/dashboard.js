// The dashboard in a browser, as people see it: by day, by night, on a telephone, by keyboard alone. Nothing may be complained of, by the
// browser or by axe-core; each word that is explained is explained to those who have no mouse; charts say in words what they show.
//
// node dashboard.js URL DIRECTORY TOKEN KEY: pictures go to the directory; KEY is one that memory holds.
"use strict";
const path = require("node:path");
const assert = require("node:assert/strict");
const { chromium } = require("playwright-core");
const axe = require("axe-core");

const [url, directory, token, key] = process.argv.slice(2);
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const AT_LAST = 30000;
const SIGHTS = [
  { name: "light", colorScheme: "light", viewport: { width: 1200, height: 900 } },
  { name: "dark", colorScheme: "dark", viewport: { width: 1200, height: 900 } },
  { name: "narrow", colorScheme: "light", viewport: { width: 390, height: 844 } },
  { name: "narrow-dark", colorScheme: "dark", viewport: { width: 390, height: 844 } },
];

async function main() {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
  try {
    for (const sight of SIGHTS) await look(browser, sight);
    await byKeyboard(browser);
  } finally {
    await browser.close();
  }
  console.log("the dashboard is as it should be");
}

// A page on which nothing may go wrong.
async function open(browser, options, work) {
  const context = await browser.newContext({ reducedMotion: "reduce", ...options });
  const page = await context.newPage(), wrong = [];
  page.setDefaultTimeout(AT_LAST);
  page.on("console", (message) => { if (["error", "warning"].includes(message.type()) && !message.text().includes("401 (Unauthorized)")) wrong.push(message.text()); });
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("request", (request) => { if (!request.url().startsWith(url) && !request.url().startsWith("data:")) wrong.push(`asks for ${request.url()}`); });
  await page.goto(url);
  await page.waitForFunction(() => document.getElementById("state").textContent === "Ready");
  await work(page, wrong);
  assert.deepEqual(wrong, []);
  await context.close();
}

async function look(browser, { name, ...options }) {
  await open(browser, options, async (page) => {
    await page.waitForFunction(() => document.querySelectorAll(".chart .line[d^=M]").length >= 4);
    assert.match(await page.title(), /^crema on \S+$/);
    await page.waitForSelector("#advice li");
    await page.waitForFunction(() => /^Hit ratio by size of L1: /.test(document.getElementById("curve").getAttribute("aria-label")));
    await unlock(page);
    await explains(page);
    await lists(page);
    await page.screenshot({ path: path.join(directory, `${name}.png`) });
    await page.evaluate(() => document.getElementById("for-admins").scrollIntoView());
    await page.screenshot({ path: path.join(directory, `${name}-admin.png`) });
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= options.viewport.width, `${name}: the page is ${width} wide`);
    await isAccessible(page, name);
  });
}

async function isAccessible(page, name) {
  // Not by a script element, which the page's policy forbids as it should.
  await page.evaluate(axe.source);
  const { violations, passes } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const told = violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html}: ${node.failureSummary}`));
  assert.deepEqual(told, [], name);
  assert.ok(passes.length > 20, `${name}: ${passes.length} rules`);
}

async function unlock(page) {
  await page.fill("#token", "wrong");
  await page.press("#token", "Enter");
  await page.waitForFunction(() => document.getElementById("unlock-said").textContent.includes("not the token"));
  assert.ok(await page.isHidden("#unlocked"));
  await page.fill("#token", token);
  await page.press("#token", "Enter");
  await page.waitForSelector("#unlocked:not([hidden])");
  const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, document.getElementById("token").value]);
  assert.deepEqual(kept, [0, 0, "", ""], "the token is kept nowhere");
}

async function explains(page) {
  await page.fill("#line", `GET ${key}`);
  await page.press("#line", "Enter");
  const fields = async () => Object.fromEntries(await page.$$eval("#explained tr", (rows) => rows.map((row) => [row.cells[0].textContent, row.cells[1].textContent])));
  await page.waitForFunction(() => document.querySelectorAll("#explained tr").length > 5);
  const { command, effect, keys, cacheable } = await fields();
  assert.deepEqual({ command, effect, keys, cacheable }, { command: "get", effect: "read", keys: key, cacheable: "yes" });
}

// Keys stay hashes, for nothing says that they may be shown.
async function lists(page) {
  for (const list of ["hot-reads", "big", "clients"]) await page.waitForSelector(`#${list} tr`);
  const text = await page.textContent("#unlocked");
  assert.ok(await page.isVisible("#hashed") && !(await page.textContent("#hot-reads")).includes(key), text);
  assert.match(await page.textContent("#clients"), /127\.0\.0\.1:\d+/);
}

async function byKeyboard(browser) {
  await open(browser, { viewport: { width: 1200, height: 900 } }, async (page) => {
    await page.waitForFunction(() => document.querySelectorAll(".chart .line[d^=M]").length >= 4);
    const seen = new Set(), focused = () => page.evaluate(() => {
      const at = document.activeElement, tip = document.getElementById("tip");
      const style = getComputedStyle(at);
      return { what: at === document.body ? "" : at.dataset.term ?? at.id ?? at.tagName, tag: at.tagName, term: at.dataset.term, tip: tip.hidden ? "" : tip.textContent,
        name: at.getAttribute("aria-label") ?? at.textContent, outline: style.outlineStyle, chart: at.classList.contains("chart") };
    });
    const terms = await page.$$eval(".term", (all) => all.filter((one) => one.checkVisibility()).map((one) => one.dataset.term));
    let charts = 0;
    for (let i = 0; i < 80; i++) {
      await page.keyboard.press("Tab");
      const now = await focused();
      if (!now.what && now.tag === "BODY") break;
      assert.notEqual(now.outline, "none", `focus does not show on ${JSON.stringify(now)}`);
      seen.add(now.what);
      if (now.term) {
        assert.ok(now.tip.length > 20, `${now.term} is not explained`);
        await page.keyboard.press("Escape");
        assert.equal((await focused()).tip, "");
      }
      if (now.chart) {
        charts += 1;
        await page.keyboard.press("End");
        const there = (await focused()).name;
        assert.match(there, / at \d\d:\d\d:\d\d$/);
        await page.keyboard.press("Home");
        await page.keyboard.press("Escape");
        assert.match((await focused()).name, /(now, least .* most|nothing yet)/);
      }
    }
    assert.deepEqual(terms.filter((term) => !seen.has(term)), [], "reached by Tab");
    assert.ok(charts >= 6 && seen.has("span") && seen.has("token"), [...seen].join(" "));
  });
}

main().catch((error) => { console.error(error); process.exit(1); });
