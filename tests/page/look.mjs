// Looks at edgehold's page in headless Chromium, over the DevTools protocol on a pipe: no package is needed.
//
// node look.mjs CHROMIUM URL TOKEN DIRECTORY
//
// Narrow and wide, light and dark, without and with scripts: the page fits its width, asks nobody else, breaks no rule of its own
// policy, and leaves a screenshot in DIRECTORY. Then says "watching", and waits until the page, without being loaded again, says
// that the link is offline. Exits with 1 and says what is wrong.
// https://chromedevtools.github.io/devtools-protocol/

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [chromium, url, token, directory] = process.argv.slice(2);
const LONGEST = 120_000;

const profile = mkdtempSync(join(tmpdir(), "edgehold-page-"));
const browser = spawn(
  chromium,
  ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", `--user-data-dir=${profile}`, "--remote-debugging-pipe", "about:blank"],
  { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] },
);

const waiting = new Map();
const events = [];
let wake = () => {};
let rest = "";
browser.stdio[4].setEncoding("utf8");
browser.stdio[4].on("data", (chunk) => {
  const messages = (rest + chunk).split("\0");
  rest = messages.pop();
  for (const message of messages.map((text) => JSON.parse(text))) {
    if (message.id === undefined) {
      events.push(message);
      wake();
      continue;
    }
    const { resolve, reject } = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.error) reject(new Error(message.error.message));
    else resolve(message.result);
  }
});

let calls = 0;
let session;
function call(method, params = {}) {
  const id = ++calls;
  browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId: session }) + "\0");
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

async function event(method) {
  for (;;) {
    const found = events.findIndex((one) => one.method === method);
    if (found >= 0) return events.splice(found, 1)[0].params;
    await new Promise((resolve) => (wake = resolve));
  }
}

async function value(expression) {
  const { result, exceptionDetails } = await call("Runtime.evaluate", { expression, returnByValue: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}

const problems = [];
function check(holds, what) {
  if (!holds) problems.push(what);
}

/// What the page asked others for, and what the browser complained of.
function complaints(what) {
  for (const { method, params } of events.splice(0)) {
    if (method === "Network.requestWillBeSent") {
      check(params.request.url.startsWith(url), `${what}: it asks ${params.request.url}`);
    }
    // The browser asks for an icon by itself.
    if (method === "Log.entryAdded" && !params.entry.url?.endsWith("/favicon.ico")) {
      check(params.entry.level !== "error", `${what}: ${params.entry.text}`);
    }
    check(method !== "Runtime.exceptionThrown", `${what}: ${JSON.stringify(params.exceptionDetails)}`);
  }
}

async function look(width, scheme, scripts) {
  const what = `${width} px, ${scheme}, ${scripts ? "with" : "without"} scripts`;
  await call("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: false });
  await call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  await call("Emulation.setScriptExecutionDisabled", { value: !scripts });
  events.length = 0;
  await call("Page.navigate", { url });
  await event("Page.loadEventFired");
  const seen = await value(`({
    wide: document.documentElement.scrollWidth,
    over: [...document.querySelectorAll("main *")].filter((one) => one.getBoundingClientRect().right > ${width}).length,
    state: document.querySelector(".state").textContent,
    titles: [...document.querySelectorAll("h2")].map((one) => one.textContent),
    back: getComputedStyle(document.body).backgroundColor,
    seen: document.querySelector("#seen").textContent,
  })`);
  check(seen.wide <= width && seen.over === 0, `${what}: it is ${seen.wide} px wide, ${seen.over} parts stick out`);
  check(seen.state === "online", `${what}: the state is ${seen.state}`);
  for (const title of ["Link to the apiserver", "Servers", "Certificates", "Clients", "Cache", "Known offline"]) {
    check(seen.titles.includes(title), `${what}: there is no ${title}`);
  }
  const light = Number(seen.back.match(/\d+/)[0]) > 128;
  check(light === (scheme === "light"), `${what}: the background is ${seen.back}`);
  check(seen.seen.startsWith(scripts ? "updates every" : "as of "), `${what}: it says ${seen.seen}`);
  complaints(what);
  const { data } = await call("Page.captureScreenshot", { captureBeyondViewport: true });
  writeFileSync(join(directory, `${width}-${scheme}${scripts ? "" : "-without-scripts"}.png`), Buffer.from(data, "base64"));
}

async function run() {
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  session = (await call("Target.attachToTarget", { targetId, flatten: true })).sessionId;
  for (const domain of ["Page", "Runtime", "Network", "Log"]) await call(`${domain}.enable`);
  // As after the browser has asked for a user and a password.
  const headers = { Authorization: `Basic ${btoa(`me:${token}`)}` };
  await call("Network.setExtraHTTPHeaders", { headers });
  await look(400, "light", false);
  await look(400, "dark", true);
  await look(1400, "dark", false);
  await look(1400, "light", true);
  console.log("watching");
  while ((await value(`document.querySelector(".state").textContent`)) !== "offline") {
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  complaints("after the change");
  const { data } = await call("Page.captureScreenshot", { captureBeyondViewport: true });
  writeFileSync(join(directory, "offline.png"), Buffer.from(data, "base64"));
}

const timer = setTimeout(() => {
  console.log(`nothing more came in ${LONGEST / 1000} s`);
  browser.kill("SIGKILL");
  process.exit(1);
}, LONGEST);
browser.on("error", (error) => problems.push(`${chromium}: ${error.message}`));
try {
  await run();
} catch (error) {
  problems.push(error.stack);
}
clearTimeout(timer);
browser.kill("SIGKILL");
await new Promise((resolve) => browser.on("close", resolve));
rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
for (const problem of problems) console.log(problem);
process.exit(problems.length > 0 ? 1 : 0);
