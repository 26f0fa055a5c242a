// Keeps the panels fresh: one request at a time asks for what has changed, and nothing moves under the pointer.
"use strict";

const body = document.body;
const words = body.dataset;
const chosen = document.documentElement.lang;
// The browser's own kind of the language that was chosen: its dates and hours.
const lang = navigator.languages.find((each) => each.startsWith(chosen)) || chosen;
const panels = new Map([...document.querySelectorAll("[data-panel]")].map((each) => [each.dataset.panel, each]));
const held = new Map();
let pointer = null;

// --- Times, in the zone of who looks -------------------------------------------------------------------------

const clock = new Intl.DateTimeFormat(lang, { timeStyle: "medium" });
const moment = new Intl.DateTimeFormat(lang, { dateStyle: "medium", timeStyle: "short" });
const units = [["day", 86400, 172800], ["hour", 3600, 7200], ["minute", 60, 120], ["second", 1, 0]];

function age(seconds) {
  const [unit, size] = units.find(([, , least]) => seconds >= least) || units[3];
  return new Intl.NumberFormat(lang, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: 0 })
    .format(Math.max(0, Math.floor(seconds / size)));
}

function showTimes(root) {
  for (const each of root.querySelectorAll("time[data-time]")) {
    const at = new Date(each.getAttribute("datetime"));
    const kind = each.dataset.time;
    if (kind === "clock") each.textContent = clock.format(at);
    if (kind === "moment") each.textContent = moment.format(at);
    if (kind === "since") each.textContent = age((Date.now() - at) / 1000);
    if (kind !== "clock") each.title = moment.format(at);
  }
}

// --- New content in the place of the old: nodes stay, so that focus, selection and what is unfolded stay -----

const keyOf = (node) => (node.nodeType === 1 ? node.dataset.key : undefined);

function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== 1) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.matches(".canvas")) return;
  morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  const known = new Map([...old.childNodes].filter(keyOf).map((node) => [keyOf(node), node]));
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const same = keyOf(next) ? known.get(keyOf(next)) : at && !keyOf(at) ? at : null;
    if (!same) {
      old.insertBefore(next, at);
      continue;
    }
    if (same !== at) old.insertBefore(same, at);
    at = same.nextSibling;
    morph(same, next);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

// --- Nothing moves under the pointer -------------------------------------------------------------------------

document.addEventListener("pointermove", (event) => {
  pointer = event.pointerType === "mouse" ? [event.clientX, event.clientY] : null;
  const over = panelUnderPointer();
  for (const [name, answer] of [...held]) if (panels.get(name) !== over) show(name, answer);
}, { passive: true });
document.documentElement.addEventListener("pointerleave", () => {
  pointer = null;
  for (const [name, answer] of [...held]) show(name, answer);
});

const underPointer = () => (pointer ? document.elementFromPoint(...pointer) : null);
const panelUnderPointer = () => underPointer()?.closest("[data-panel]") || null;

// The rows in their order: if they stay, only what stands in them changes.
const shapeOf = (root) => [...root.querySelectorAll("[data-key]")].map(keyOf).join("\n");

function inUse(panel) {
  const selection = getSelection();
  return panel === panelUnderPointer() || panel.contains(document.activeElement)
    || (!selection.isCollapsed && panel.contains(selection.anchorNode));
}

function take(name, answer) {
  const panel = panels.get(name);
  if (!panel) return;
  panel.dataset.version = answer.version;
  const fresh = contentOf(answer.html);
  const content = panel.querySelector(".content");
  if (inUse(panel) && shapeOf(content) !== shapeOf(fresh) && !content.querySelector(".skeleton")) {
    held.set(name, answer);
    const note = panel.querySelector(".held");
    note.textContent = words.held;
    note.hidden = false;
    return;
  }
  show(name, answer);
}

function contentOf(html) {
  const parsed = new DOMParser().parseFromString(`<div class="content">${html}</div>`, "text/html");
  return parsed.querySelector(".content");
}

function show(name, answer) {
  const panel = panels.get(name);
  held.delete(name);
  panel.querySelector(".held").hidden = true;
  const anchor = underPointer();
  const before = anchor?.getBoundingClientRect().top;
  // A page that gets shorter could not be scrolled so far any more.
  if (pointer) panel.style.minHeight = `${panel.offsetHeight}px`;
  const fresh = contentOf(answer.html);
  showTimes(fresh);
  morph(panel.querySelector(".content"), fresh);
  panel.dataset.tone = answer.tone;
  document.querySelector(`[data-for="${CSS.escape(name)}"]`)?.setAttribute("data-tone", answer.tone);
  drawPlots(panel);
  letScroll(panel);
  if (!pointer) panel.style.minHeight = "";
  if (anchor?.isConnected) {
    const moved = anchor.getBoundingClientRect().top - before;
    if (Math.abs(moved) >= 1) scrollBy({ top: moved, behavior: "instant" });
  }
}

// --- Plots ---------------------------------------------------------------------------------------------------

const plots = new WeakMap();

function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  body.append(probe);
  const found = getComputedStyle(probe).color;  // of the two of light-dark() the one that holds
  probe.remove();
  return found;
}

const byUnit = {
  "": (value) => new Intl.NumberFormat(lang, { maximumSignificantDigits: 3 }).format(value),
  seconds: (value) => new Intl.NumberFormat(lang, { style: "unit", unit: "second", unitDisplay: "narrow", maximumSignificantDigits: 3 }).format(value),
  bytes: (value) => new Intl.NumberFormat(lang, { notation: "compact", style: "unit", unit: "byte", unitDisplay: "narrow" }).format(value),
};

function drawPlots(root) {
  for (const figure of root.querySelectorAll("figure.plot")) {
    const text = figure.dataset.plot;
    const drawn = plots.get(figure);
    const canvas = figure.querySelector(".canvas");
    if (!canvas.clientWidth || (drawn && drawn.text === text && drawn.width === canvas.clientWidth)) continue;
    const plot = JSON.parse(text);
    const data = [plot.moments, ...plot.lines.map((line) => line.values)];
    if (drawn && drawn.lines === plot.lines.length && drawn.width === canvas.clientWidth) {
      drawn.chart.setData(data);
      drawn.text = text;
      continue;
    }
    drawn?.chart.destroy();
    plots.set(figure, { text, width: canvas.clientWidth, lines: plot.lines.length, chart: newPlot(plot, data, canvas) });
  }
}

function newPlot(plot, data, canvas) {
  const write = byUnit[plot.unit] || byUnit[""];
  const axis = { stroke: colour("--muted"), font: "11px system-ui", grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  return new uPlot({
    width: canvas.clientWidth,
    height: 130,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.1 : 1] } },
    axes: [
      { ...axis, values: (_, moments) => moments.map((at) => new Intl.DateTimeFormat(lang, { timeStyle: "short" }).format(at * 1000)) },
      { ...axis, size: 54, values: (_, values) => values.map(write) },
    ],
    series: [{}, ...plot.lines.map((line, index) => ({
      label: line.name, stroke: colour(`--line-${index % 8}`), width: 1.6, spanGaps: false, points: { show: false },
    }))],
  }, data, canvas);
}

// What is wider than its place can be scrolled by keys too.
function letScroll(root) {
  for (const each of root.querySelectorAll(".scroll")) {
    if (each.scrollWidth > each.clientWidth) each.tabIndex = 0;
    else each.removeAttribute("tabindex");
  }
}

function fit(root) {
  drawPlots(root);
  letScroll(root);
}

addEventListener("resize", () => fit(document));
document.addEventListener("toggle", (event) => fit(event.target), true);

// --- Buttons -------------------------------------------------------------------------------------------------

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    say(words.copied);
  } catch {
    // Without the right to the clipboard the command is at least selected.
    const range = document.createRange();
    range.selectNodeContents(button.closest(".command").querySelector("code"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
});

const dialog = document.getElementById("confirm");

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form.action")) return;
  event.preventDefault();
  dialog.querySelector("h2").textContent = form.querySelector("button").textContent;
  dialog.querySelector(".question").textContent = form.dataset.question;
  dialog.querySelector(".argument").textContent = form.elements.argument.value;
  dialog.querySelector(".answer").textContent = "";
  dialog.returnValue = "no";
  dialog.showModal();
  dialog.addEventListener("close", () => dialog.returnValue === "yes" && act(form), { once: true });
});

async function act(form) {
  const button = form.querySelector("button");
  button.disabled = true;
  say(words.waiting);
  const fields = { argument: form.elements.argument.value, confirmed: "yes", form_token: words.formToken };
  try {
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(fields), headers: { accept: "application/json" } });
    const isJson = answer.headers.get("content-type")?.startsWith("application/json");
    say(isJson ? (await answer.json()).said : words.ended, answer.ok);
  } catch {
    say(words.away, false);
  }
  button.disabled = false;
}

let saying = 0;
function say(text, isRight = true) {
  const place = document.getElementById("said");
  place.textContent = text;
  place.dataset.right = isRight;
  clearTimeout(saying);
  saying = setTimeout(() => { place.textContent = ""; }, isRight ? 4000 : 12000);
}

// --- The one request -----------------------------------------------------------------------------------------

const live = document.getElementById("live");
let readAt = null;
let isAway = false;

function showLive(state, text) {
  live.dataset.state = state;
  live.querySelector(".says").textContent = text;
  body.dataset.state = state;
}

function showWorst() {
  const count = document.querySelectorAll(".problems li.page").length;
  const name = document.title.replace(/^\(\d+\) /, "");
  document.title = count ? `(${count}) ${name}` : name;
}

async function ask() {
  const seen = [...panels].map(([name, panel]) => `${name}:${Math.max(0, panel.dataset.version)}`);
  const first = [...panels.values()].some((panel) => panel.dataset.version === "-1");
  const query = first ? "" : `?seen=${encodeURIComponent(seen.join(","))}`;
  const answer = await fetch(`/panels${query}`, { headers: { accept: "application/json" }, signal: AbortSignal.timeout(20000) });
  if (answer.status === 401) {
    showLive("ended", `${words.ended}. `);
    const link = document.createElement("a");
    link.href = "/open";
    link.textContent = words.open;
    live.querySelector(".says").append(link);
    return false;
  }
  if (!answer.ok) throw new Error(answer.statusText);
  const { at, panels: changed } = await answer.json();
  readAt = new Date(at);
  for (const [name, each] of Object.entries(changed)) take(name, each);
  showWorst();
  showLive("live", `${words.live} ${clock.format(readAt)}`);
  return true;
}

const shown = () => new Promise((resolve) => {
  if (!document.hidden) resolve();
  else document.addEventListener("visibilitychange", () => resolve(), { once: true });
});

async function run() {
  let pause = 500;
  for (;;) {
    await shown();
    try {
      if (!(await ask())) return;
      pause = 500;
      isAway = false;
    } catch {
      if (!isAway || pause > 2000) showLive("away", readAt ? `${words.away} ${clock.format(readAt)}` : words.away.replace(/\..*/, "."));
      isAway = true;
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 2, 10000);
    }
  }
}

showTimes(document);
setInterval(() => showTimes(document), 10000);
run();
