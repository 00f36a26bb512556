// SPDX-License-Identifier: Apache-2.0
// Polls /monitor.json and draws it. Text goes in by textContent only: names come from users.
"use strict";

const POLL_MS = 2000;
const DAY_US = 86400e6;
const OUTCOMES_MIN = 200; // an AUC of fewer says little
const SVG = "http://www.w3.org/2000/svg";
const count = new Intl.NumberFormat("en");
const seen = new Map(); // by monitor: the last figures and when, for rates

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  return fill(made, attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const date = (us) => new Date(us / 1000).toISOString();
const day = (us) => date(us).slice(0, 10);
const minute = (us) => date(us).slice(0, 16).replace("T", " ");
const fixed = (value, digits) => (value === null ? "–" : value.toFixed(digits));

async function poll() {
  const status = document.getElementById("status");
  try {
    const answer = await fetch("/monitor.json", { signal: AbortSignal.timeout(8000) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    show(await answer.json());
    say(status, "live", "live");
  } catch (error) {
    say(status, "lost", "no answer, trying again");
  }
  setTimeout(poll, document.hidden ? 5 * POLL_MS : POLL_MS);
}

// A live region speaks at each change: set it only when it says something else.
function say(status, state, text) {
  if (status.className === state) return;
  status.className = state;
  document.getElementById("status-text").textContent = text;
}

function show(state) {
  document.getElementById("empty").hidden = state.monitors.length > 0;
  const root = document.getElementById("monitors");
  const names = new Set(state.monitors.map((monitor) => monitor.name));
  for (const old of [...root.children]) if (!names.has(old.dataset.name)) old.remove();
  for (const monitor of state.monitors) {
    let section = [...root.children].find((one) => one.dataset.name === monitor.name);
    if (!section) {
      section = document.getElementById("monitor-template").content.firstElementChild.cloneNode(true);
      section.dataset.name = monitor.name;
      section.querySelector("h2").textContent = monitor.name;
      section.querySelector(".description").textContent = monitor.description;
      root.append(section);
    }
    showMonitor(section, monitor, state.serving);
  }
}

function showMonitor(section, monitor, serving) {
  const part = (selector) => section.querySelector(selector);
  const time = part("time");
  time.textContent = monitor.evaluated_until_us ? `${minute(monitor.evaluated_until_us)} UTC` : "–";
  const loop = part(".loop");
  loop.textContent = monitor.settled ? "settled" : "acting";
  loop.className = `chip loop ${monitor.settled ? "good" : "wait"}`;
  replace(part(".tiles"), tiles(monitor, serving));
  const endpoints = [...new Set(monitor.days.map((one) => one.endpoint))].sort(
    (a, b) => (b === monitor.endpoint) - (a === monitor.endpoint) || a.localeCompare(b),
  );
  replace(part(".auc .legend"), endpoints.map((name, i) =>
    element("li", {}, element("i", { class: `swatch s${i % 4}` }), name)));
  replace(part(".auc .chart"), [aucChart(monitor, endpoints)]);
  replace(part(".drift .chart"), [driftChart(monitor)]);
  replace(part(".serving"), servingRows(serving, new Set([monitor.endpoint, ...endpoints])));
  replace(part(".incidents"), incidentRows(monitor));
  replace(part("tbody"), qualityRows(monitor));
}

// Rebuilding what did not change would drop a selection and make screen readers start again.
function replace(parent, children) {
  const before = [...parent.children];
  const same = before.length === children.length && before.every((one, i) => one.isEqualNode(children[i]));
  if (!same) parent.replaceChildren(...children);
}

function tiles(monitor, serving) {
  const mine = serving.find((one) => one.endpoint === monitor.endpoint);
  const months = monitor.months.filter((one) => one.endpoint === monitor.endpoint && one.auc !== null);
  const month = months.filter((one) => one.labelled >= OUTCOMES_MIN).at(-1) || months.at(-1);
  const open = monitor.incidents.filter((one) => one.state !== "resolved").length;
  const [events, predictions] = rates(monitor);
  const canary = mine && mine.canary ? `canary v${mine.canary}, ${mine.canary_percent} %` : "no canary";
  const labelled = monitor.predictions ? monitor.labelled / monitor.predictions : 0;
  return [
    tile("Events folded", count.format(monitor.records_folded), `${events} per second`),
    tile("Predictions folded", count.format(monitor.predictions_folded), `${predictions} per second`),
    tile("Outcomes known", count.format(monitor.labelled), `${(100 * labelled).toFixed(1)} % of ${monitor.endpoint}'s`),
    tile("AUC", month ? fixed(month.auc, 3) : "–", month ? `${month.period}, v${month.version}` : "no outcomes yet"),
    tile("Champion", mine ? `v${mine.champion}` : "–", mine ? canary : "nothing serves yet"),
    tile("Incidents", count.format(monitor.incidents.length), open ? `${open} open` : "none open"),
  ];
}

function tile(name, value, below) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value), element("dd", {}, below));
}

function rates(monitor) {
  const now = { at: performance.now(), figures: [monitor.records_folded, monitor.predictions_folded] };
  const history = seen.get(monitor.name) || [];
  history.push(now);
  while (history.length > 1 && now.at - history[0].at > 10000) history.shift();
  seen.set(monitor.name, history);
  const passed = (now.at - history[0].at) / 1000;
  return now.figures.map((value, i) =>
    passed ? count.format(Math.max(0, Math.round((value - history[0].figures[i]) / passed))) : "0");
}

// --- charts ---
const WIDTH = 960;
const BOX = { left: 44, right: 12, top: 16, bottom: 24 };

function frame(height, title, summary) {
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": `${title}. ${summary}` });
  return svg;
}

function scale(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

function round(value) {
  return Math.round(value * 10) / 10;
}

function timeAxis(svg, x, first, last, height) {
  const months = [];
  const cursor = new Date(day(first).slice(0, 7) + "-01T00:00:00Z");
  for (; cursor.getTime() * 1000 <= last; cursor.setUTCMonth(cursor.getUTCMonth() + 1)) {
    months.push(cursor.getTime() * 1000);
  }
  const starts = months.filter((us) => us >= first);
  const marks = starts.length > 1 ? starts : [first, last];
  const every = Math.ceil(marks.length / 12);
  marks.forEach((us, i) => {
    if (i % every) return;
    const label = starts.length > 1 ? day(us).slice(0, 7) : day(us);
    const end = starts.length > 1 ? "middle" : i ? "end" : "start";
    svg.append(drawn("text", { x: round(x(us)), y: height - 6, "text-anchor": end }, label));
  });
}

function valueAxis(svg, y, values, digits) {
  for (const value of values) {
    const at = round(y(value));
    svg.append(drawn("line", { class: "gridline", x1: BOX.left, x2: WIDTH - BOX.right, y1: at, y2: at }));
    svg.append(drawn("text", { x: BOX.left - 6, y: at + 4, "text-anchor": "end" }, value.toFixed(digits)));
  }
}

function ticks(low, high, step) {
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + 1e-9; value += step) found.push(value);
  return found;
}

function nothing(text) {
  return element("p", { class: "nothing" }, text);
}

function aucChart(monitor, endpoints) {
  const days = monitor.days.filter((one) => one.auc !== null && one.labelled >= 20)
    .map((one) => ({ ...one, at: Date.parse(`${one.period}T12:00:00Z`) * 1000 }));
  if (!days.length) return nothing("No outcomes yet: labels arrive after the predictions.");
  const height = 260;
  const first = Math.min(...days.map((one) => one.at)) - DAY_US / 2;
  const last = Math.max(...days.map((one) => one.at)) + DAY_US / 2;
  const low = Math.max(0, Math.min(0.5, ...days.map((one) => one.auc)) - 0.02);
  const high = Math.min(1, Math.max(...days.map((one) => one.auc)) + 0.03);
  const x = scale(first, last, BOX.left, WIDTH - BOX.right);
  const y = scale(low, high, height - BOX.bottom, BOX.top);
  const latest = endpoints.map((name) => {
    const line = smooth(days.filter((one) => one.endpoint === name));
    return line.length ? `${name} ${line.at(-1).value.toFixed(3)}` : "";
  });
  const svg = frame(height, "AUC per day", `Mean of the last seven days: ${latest.filter(Boolean).join(", ")}.`);
  valueAxis(svg, y, ticks(low, high, 0.1), 1);
  timeAxis(svg, x, first, last, height);
  for (const one of monitor.canaries.filter((each) => each.decision === "promote")) {
    if (one.judged_at_us < first || one.judged_at_us > last) continue;
    const at = round(x(one.judged_at_us));
    svg.append(drawn("line", { class: "promoted", x1: at, x2: at, y1: BOX.top, y2: height - BOX.bottom }));
    svg.append(drawn("text", { class: "promoted-label", x: at + 4, y: BOX.top + 8 }, `v${one.version}`));
  }
  endpoints.forEach((name, i) => {
    const mine = days.filter((one) => one.endpoint === name);
    const group = drawn("g", { class: `s${i % 4}` });
    for (const one of mine) {
      group.append(drawn("circle", { class: "point", cx: round(x(one.at)), cy: round(y(one.auc)), r: 2.6 },
        drawn("title", {}, `${name}, ${one.period}: AUC ${one.auc.toFixed(3)} on ${one.labelled} outcomes`)));
    }
    const points = smooth(mine).map((one) => `${round(x(one.at))},${round(y(one.value))}`).join(" ");
    group.append(drawn("polyline", { class: "line", points }));
    svg.append(group);
  });
  return svg;
}

// Mean of the last seven days, weighted by their outcomes.
function smooth(days) {
  return days.map((one, i) => {
    const week = days.slice(0, i + 1).filter((each) => each.at > one.at - 7 * DAY_US);
    const weight = week.reduce((sum, each) => sum + each.labelled, 0);
    return { at: one.at, value: week.reduce((sum, each) => sum + each.auc * each.labelled, 0) / weight };
  });
}

function driftChart(monitor) {
  const windows = monitor.drift.slice(-200);
  if (!windows.length) return nothing("No window was judged yet.");
  const height = 170;
  const size = monitor.window_s * 1e6;
  const first = windows[0].window_end_us - size;
  const last = windows.at(-1).window_end_us;
  const peak = Math.max(monitor.psi_floor * 2, ...windows.map((one) => one.psi)) * 1.05;
  const x = scale(first, last, BOX.left, WIDTH - BOX.right);
  const y = scale(0, peak, height - BOX.bottom, BOX.top);
  const bad = windows.filter((one) => one.drifted.length).length;
  const svg = frame(height, "Drift per window", `${bad} of ${windows.length} windows drifted; the floor is a PSI of ${monitor.psi_floor}.`);
  const step = 10 ** Math.floor(Math.log10(peak)) * (peak / 10 ** Math.floor(Math.log10(peak)) > 4 ? 2 : 1) / 2;
  valueAxis(svg, y, ticks(0, peak, step).filter((_, i) => i % 2 === 0), step < 0.05 ? 2 : 1);
  timeAxis(svg, x, first, last, height);
  const width = Math.max(1, Math.min(40, x(first + size) - x(first) - 2));
  for (const one of windows) {
    const top = Math.min(y(one.psi), y(0) - 1);
    svg.append(drawn("rect", {
      class: one.drifted.length ? "hot" : "calm", x: round(x(one.window_end_us - size) + 1), y: round(top),
      width: round(width), height: round(y(0) - top), rx: 2,
    }, drawn("title", {}, driftTitle(one))));
  }
  const floor = round(y(monitor.psi_floor));
  svg.append(drawn("line", { class: "floor", x1: BOX.left, x2: WIDTH - BOX.right, y1: floor, y2: floor }));
  return svg;
}

function driftTitle(one) {
  const found = one.drifted.length ? `drifted: ${one.drifted.join(", ")}` : `strongest: ${one.feature}`;
  return `window until ${minute(one.window_end_us)}, v${one.version}, ${one.rows} rows. PSI ${one.psi.toFixed(3)}, ${found}`;
}

// --- lists ---
function servingRows(serving, endpoints) {
  const rows = serving.filter((one) => endpoints.has(one.endpoint));
  if (!rows.length) return [element("li", { class: "nothing" }, "Nothing serves yet.")];
  return rows.map((one) => {
    const share = element("div", { class: "share", "aria-hidden": "true" }, element("i"), ...(one.canary ? [element("i")] : []));
    share.children[0].style.width = `${100 - one.canary_percent}%`;
    if (one.canary) share.children[1].style.width = `${one.canary_percent}%`;
    const who = one.canary ? `v${one.champion} · canary v${one.canary} ${one.canary_percent} %` : `v${one.champion}`;
    return element("li", {},
      element("div", { class: "who" }, element("span", {}, one.endpoint), element("span", {}, who)), share,
      element("small", {}, `${one.change || "serving"} (generation ${one.generation})`));
  });
}

function incidentRows(monitor) {
  const rows = [...monitor.incidents].reverse();
  if (!rows.length) return [element("li", { class: "nothing" }, "None: nothing has called for an act.")];
  return rows.map((one) => {
    const kind = one.state === "resolved" ? (one.promoted_at_us ? "good" : "hot") : "wait";
    const took = one.promoted_at_us ? `, promoted after ${seconds(one.promoted_at_us - one.detected_at_us)}` : "";
    return element("li", {},
      element("div", { class: "head" },
        element("span", { class: `chip ${kind}` }, one.state === "resolved" ? "resolved" : one.state),
        element("span", { class: "action" }, `${one.kind} of v${one.version}: ${one.action}`)),
      element("small", {}, `${minute(one.judged_at_us)}${took}`),
      element("small", {}, one.why));
  });
}

function seconds(us) {
  const s = us / 1e6;
  return s < 90 ? `${s.toFixed(0)} s` : s < 5400 ? `${(s / 60).toFixed(0)} min` : `${(s / 3600).toFixed(1)} h`;
}

function qualityRows(monitor) {
  if (!monitor.months.length) {
    return [element("tr", {}, element("td", { colspan: "7", class: "nothing" }, "No outcomes yet."))];
  }
  return monitor.months.map((one) => element("tr", {},
    element("td", {}, one.endpoint), element("td", {}, one.period), element("td", {}, `v${one.version}`),
    ...[fixed(one.auc, 4), fixed(one.log_loss, 4), count.format(one.labelled),
      `${((100 * one.positives) / one.labelled).toFixed(1)} %`].map((text) => element("td", { class: "number" }, text))));
}

poll();
