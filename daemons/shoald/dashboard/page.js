"use strict";
/* The dashboard's page. It asks for the cluster's state each second, and draws what has changed of it.

   A section is a function of the state that says what it shows, as a tree of elements; it is put into the page only if it differs from
   what is there, so that a selection of text survives. Text goes in as text, never as HTML: names are users'. */

const REFRESH_MS = 1000;
const HISTORY_S = 120;
const SPARK_S_MIN = 30;
const LATE_MS = 5000; // a process that does not answer in time holds an answer up for two seconds
const STALE_MS = 10000;

/* --- words for numbers --- */

function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

function count(value) {
  return value.toLocaleString("en", { maximumFractionDigits: 2 });
}

function rate(value) {
  return value < 10 ? value.toLocaleString("en", { maximumFractionDigits: 1 }) : count(Math.round(value));
}

function age(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function amounts(resources) {
  const parts = Object.entries(resources).map(([name, value]) =>
    name === "memory" ? `${bytes(value)} memory` : `${count(value)} ${name}`);
  return parts.join(", ");
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

/* --- elements, described before they are made --- */

function h(tag, attributes, ...children) {
  return { tag, attributes: attributes || {}, children: children.flat(Infinity).filter((each) => each !== null && each !== "") };
}

const SVG = new Set(["svg", "path"]);

function made(node) {
  if (typeof node !== "object") return document.createTextNode(String(node));
  const element = SVG.has(node.tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", node.tag)
    : document.createElement(node.tag);
  for (const [name, value] of Object.entries(node.attributes)) {
    if (name === "width%") element.style.width = `${value}%`; // the page's policy allows no style in attributes
    else element.setAttribute(name, value);
  }
  element.append(...node.children.map(made));
  return element;
}

const shown = new Map();

function show(id, ...content) {
  const text = JSON.stringify(content);
  if (shown.get(id) === text) return;
  shown.set(id, text);
  document.getElementById(id).replaceChildren(...content.map(made));
}

function empty(text) {
  return h("p", { class: "empty" }, text);
}

function bar(whole, parts, kind = "") {
  const drawn = parts.filter(([value]) => value > 0 && whole > 0);
  return h("div", { class: `bar ${kind}`, "aria-hidden": "true" },
    drawn.map(([value, colour]) => h("i", { class: colour, "width%": Math.min(100, (100 * value) / whole).toFixed(2) })));
}

function legend(entries) {
  return h("ul", { class: "legend" },
    entries.map(([colour, text, value]) => h("li", {}, h("i", { class: colour }), `${text} `, h("b", {}, value))));
}

function table(columns, rows) {
  const kinds = columns.map((column) => (column.startsWith(">") ? { class: "number" } : {}));
  const names = columns.map((column) => column.replace(">", ""));
  const cell = (content, index) => {
    const given = content && content.tag === "td" ? content : h("td", kinds[index], content);
    const label = index && names[index] ? { "data-label": names[index] } : {};
    return { ...given, attributes: { ...label, ...given.attributes } };
  };
  return h("table", {},
    h("thead", {}, h("tr", {}, names.map((name, index) => h("th", { scope: "col", ...kinds[index] }, name)))),
    h("tbody", {}, rows.map(({ cells, gone }) => h("tr", gone ? { class: "gone" } : {}, cells.map(cell)))));
}

function more(leftOut, command) {
  return leftOut ? [h("p", { class: "more" }, `and ${count(leftOut)} more: ${command}`)] : [];
}

function nodeName(node) {
  return node.name || node.node_id.slice(0, 8);
}

/* --- rates, from one state to another --- */

const history = [];

function remember(state) {
  const last = history[history.length - 1];
  if (last && last.at_s === state.at_s) return; // the same one again
  if (last && state.at_s < last.at_s) history.length = 0; // another dashboard answers at this address
  const busy = {};
  for (const node of state.nodes) if (node.figures) busy[node.node_id] = node.figures;
  history.push({ at_s: state.at_s, sums: state.sums, figures: busy });
  while (history[0].at_s < state.at_s - HISTORY_S) history.shift();
}

/* A second of one state and the next is little to go by: rates are over some seconds. */
function before() {
  return history[Math.max(0, history.length - 4)];
}

function perSecond(name) {
  const now = history[history.length - 1], then = before();
  const seconds = now.at_s - then.at_s;
  return seconds > 0 ? Math.max(0, ((now.sums[name] || 0) - (then.sums[name] || 0)) / seconds) : 0;
}

function nodePerSecond(nodeId, value) {
  const now = history[history.length - 1], then = before();
  if (!now.figures[nodeId] || !then.figures[nodeId] || now === then) return null;
  return Math.max(0, (value(now.figures[nodeId]) - value(then.figures[nodeId])) / (now.at_s - then.at_s));
}

function spark(name) {
  const points = [];
  for (let index = 1; index < history.length; index += 1) {
    const [then, now] = [history[index - 1], history[index]];
    const value = Math.max(0, (now.sums[name] || 0) - (then.sums[name] || 0)) / (now.at_s - then.at_s);
    points.push([now.at_s, value]);
  }
  if (points.length < 2) return h("svg", { class: "spark" });
  const end = points[points.length - 1][0];
  const span = Math.max(SPARK_S_MIN, end - points[0][0]);
  const top = Math.max(1, ...points.map(([, value]) => value));
  const line = points.map(([at, value], index) => {
    const x = 100 - (100 * (end - at)) / span, y = 32 - (30 * value) / top;
    return `${index ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`;
  });
  const first = 100 - (100 * (end - points[0][0])) / span;
  return h("svg", { class: "spark", viewBox: "0 0 100 34", preserveAspectRatio: "none", role: "img",
    "aria-label": `tasks finished a second, over the last ${Math.round(span)} s` },
    h("path", { class: "under", d: `${line.join("")}L100 34L${first.toFixed(2)} 34Z` }),
    h("path", { d: line.join("") }));
}

/* --- sections --- */

const STORE = [["primary", "blue", "primary copies"], ["secondary", "teal", "secondary copies"], ["other", "grey", "in use otherwise"]];

const TASKS = [
  ["RUNNING", "blue", "running"], ["AT_WORKER", "teal", "next at a worker"],
  ["PENDING_NODE", "amber", "waiting for a worker"], ["PENDING_ARGS", "violet", "waiting for arguments"],
];

function storeParts(store) {
  const { primary, secondary, leased, duplicate, restoring } = store.states;
  return { primary, secondary, other: leased + duplicate + restoring };
}

function tile(name, value, foot, ...details) {
  return h("div", { class: "tile" }, h("span", { class: "quiet" }, name), h("span", { class: "value" }, value),
    h("span", { class: "quiet small" }, details), h("div", { class: "foot" }, foot));
}

function waits(byState) {
  const parts = [["PENDING_NODE", "for a worker"], ["PENDING_ARGS", "for arguments"], ["AT_WORKER", "for their turn"]]
    .filter(([key]) => byState[key]).map(([key, text]) => `${count(byState[key])} ${text}`);
  return parts.join(", ") || "nothing waits";
}

function tiles(state) {
  const live = state.nodes.map((node) => node.figures).filter(Boolean);
  const total = sum(live.map((node) => node.resources.CPU || 0));
  const used = total - sum(live.map((node) => node.available.CPU || 0));
  const capacity = sum(live.map((node) => node.store.capacity));
  const stored = sum(live.map((node) => node.store.used));
  const spilled = sum(live.map((node) => node.store.disk.live));
  const parts = live.map((node) => storeParts(node.store));
  const running = state.tasks.RUNNING || 0;
  const waiting = sum(Object.values(state.tasks)) - running;
  const failed = state.sums.failed || 0;
  return [
    tile("Tasks finished", [rate(perSecond("finished")), h("small", {}, " per s")], spark("finished"),
      `${count(state.sums.finished || 0)} in all`, failed ? [", ", h("span", { class: "bad" }, `${count(failed)} failed`)] : null),
    tile("Tasks running", [count(running), h("small", {}, ` and ${count(waiting)} waiting`)],
      bar(running + waiting, TASKS.map(([key, colour]) => [state.tasks[key] || 0, colour])), waits(state.tasks)),
    tile("CPUs in use", [count(used), h("small", {}, ` of ${count(total)}`)], bar(total, [[used, "blue"]]),
      `${live.length} ${live.length === 1 ? "node" : "nodes"}`),
    tile("Object store", [bytes(stored), h("small", {}, ` of ${bytes(capacity)}`)],
      bar(capacity, STORE.map(([key, colour]) => [sum(parts.map((each) => each[key])), colour])),
      spilled ? `and ${bytes(spilled)} spilled to disk` : "nothing is spilled"),
  ];
}

function nodeState(node) {
  if (node.state === "DEAD") return ["red", "dead"];
  if (node.state === "SUSPECTED") return ["amber", `silent for ${age(node.silent_ms / 1000)}`];
  if (!node.figures) return ["amber", "does not answer"];
  return node.draining ? ["amber", "drains"] : ["green", "alive"];
}

function nodeRow(node) {
  const [colour, word] = nodeState(node);
  const name = h("td", { class: "name" }, h("b", {}, node.name || node.hostname), h("br"), h("code", {}, node.node_id.slice(0, 8)));
  const state = h("span", { class: "state" }, h("i", { class: colour }), word);
  if (!node.figures) {
    const why = node.state === "ALIVE" ? "" : node.reason;
    return { gone: true, cells: [name, state, h("td", { colspan: 4, "data-label": why ? "Because" : "" }, why)] };
  }
  const { cpu, memory, resources, available, store, workers } = node.figures;
  const load = nodePerSecond(node.node_id, (figures) => figures.cpu.busy_s);
  const cpus = resources.CPU || 0, used = cpus - (available.CPU || 0);
  const others = Object.entries(resources).filter(([key, value]) => key !== "CPU" && key !== "memory" && value > 0)
    .map(([key, value]) => `${count(value - (available[key] || 0))} of ${count(value)} ${key}`);
  const busy = workers.leased + workers.blocked;
  return { cells: [
    name,
    [state, h("br"), h("span", { class: "quiet small" }, `up ${age(node.figures.uptime_s)}`)],
    [`${count(used)} of ${count(cpus)}`, load === null ? "" : h("span", { class: "quiet small" },
      `, machine at ${Math.min(100, Math.round((100 * load) / cpu.count))} %`),
    bar(cpus, [[used, "blue"]]), others.length ? h("span", { class: "quiet small" }, others.join(", ")) : ""],
    [`${bytes(memory.used)} of ${bytes(memory.limit)}`, bar(memory.limit, [[memory.used, "violet"]]),
      h("span", { class: "quiet small" }, `${bytes(memory.workers)} by workers`)],
    h("td", { class: "wide" }, storeCell(node, store)),
    h("td", { class: "number" }, `${busy} busy`, h("br"), h("span", { class: "quiet small" }, `${workers.idle + workers.starting} idle`)),
  ] };
}

function storeCell(node, store) {
  const parts = storeParts(store);
  const spilled = store.disk.live;
  const moving = [
    ["spills", (figures) => figures.store.spilled], ["restores", (figures) => figures.store.restored],
    ["fetches", (figures) => figures.store.fetched_bytes], ["serves", (figures) => figures.store.served_bytes],
  ].map(([verb, value]) => [verb, nodePerSecond(node.node_id, value)]).filter(([, value]) => value);
  const facts = [`${count(store.objects)} ${store.objects === 1 ? "object" : "objects"}`];
  if (store.pinned) facts.push(`${bytes(store.pinned)} pinned`);
  if (spilled) facts.push(`${bytes(spilled)} spilled`);
  facts.push(...moving.map(([verb, value]) => `${verb} ${bytes(value)}/s`));
  return [
    `${bytes(store.used)} of ${bytes(store.capacity)}`,
    bar(store.capacity, STORE.map(([key, colour]) => [parts[key], colour])),
    store.pinned ? bar(store.capacity, [[store.pinned, "violet"]], "thin") : "",
    spilled ? bar(Math.max(store.capacity, spilled), [[spilled, "amber"]], "thin") : "",
    h("span", { class: "quiet small" }, facts.join(", ")),
  ];
}

function nodes(state) {
  const live = state.nodes.map((node) => node.figures).filter(Boolean);
  const total = (value) => bytes(sum(live.map(value)));
  return [
    table(["Node", "State", "CPUs", "Memory", "Object store", ">Workers"], state.nodes.map(nodeRow)),
    legend([
      ...STORE.map(([key, colour, text]) => [colour, text, total((node) => storeParts(node.store)[key])]),
      ["violet", "pinned", total((node) => node.store.pinned)],
      ["amber", "spilled", total((node) => node.store.disk.live)],
    ]),
  ];
}

const SUMS = [["submitted", "submitted"], ["finished", "finished"], ["failed", "failed"], ["retried", "tried again"]];

function tasks(state) {
  const all = sum(Object.values(state.tasks));
  if (!state.sums.submitted) return [empty("Nothing was submitted yet.")];
  const sums = SUMS.map(([key, text]) => {
    const now = perSecond(key);
    return ["", text, `${count(state.sums[key] || 0)}${now ? ` (${rate(now)} per s)` : ""}`];
  });
  return [
    bar(all, TASKS.map(([key, colour]) => [state.tasks[key] || 0, colour]), "large"),
    legend(TASKS.map(([key, colour, text]) => [colour, text, count(state.tasks[key] || 0)])),
    h("ul", { class: "legend quiet" }, sums.map(([, text, value]) => h("li", {}, `${text} `, h("b", {}, value)))),
  ];
}

function pending(state) {
  const { rows, left_out: leftOut } = state.pending;
  if (!rows.length) return [empty("Nothing waits for resources.")];
  const lines = rows.map((row) => ({ cells: [
    h("td", { class: "name" }, h("b", {}, row.name || "tasks"), row.by ? [h("br"), h("span", { class: "quiet small" }, row.by)] : null),
    count(row.count), amounts(row.resources), row.waiting_s === null ? "" : age(row.waiting_s), row.reason,
  ] }));
  return [table(["Function", ">Workers wanted", "Each needs", "Since", "Because"], lines), ...more(leftOut, "shoal status")];
}

const ACTOR_COLOURS = { ALIVE: "green", DEAD: "red", RESTARTING: "amber", PENDING_CREATION: "amber", STARTING: "amber" };

function actors(state) {
  const states = Object.entries(state.actor_states);
  if (!states.length && !(state.actors && state.actors.rows.length)) return [empty("There are no actors.")];
  const counts = legend(states.map(([name, value]) =>
    [ACTOR_COLOURS[name] || "grey", name.toLowerCase().replace("_", " "), count(value)]));
  if (state.actors === null) return [counts, h("p", { class: "more" }, "too many to list here: shoal list actors")];
  const names = new Map(state.nodes.map((node) => [node.node_id, nodeName(node)]));
  const lines = state.actors.rows.map((row) => ({ gone: row.state === "DEAD", cells: [
    h("td", { class: "name" }, h("b", {}, row.class), row.name ? [" ", h("span", { class: "quiet" }, row.name)] : null, h("br"),
      h("code", {}, row.actor_id)),
    [h("span", { class: "state" }, h("i", { class: ACTOR_COLOURS[row.state] || "grey" }), row.state.toLowerCase().replace("_", " ")),
      row.reason ? [h("br"), h("span", { class: "quiet small" }, row.reason.split("\n")[0].slice(0, 160))] : null].flat(),
    names.get(row.node_id) || "", row.pid ? String(row.pid) : "", row.restarts ? count(row.restarts) : "",
  ] }));
  return [table(["Actor", "State", "Node", ">Process", ">Restarts"], lines), ...more(state.actors.left_out, "shoal list actors")];
}

function jobs(state) {
  const { rows, left_out: leftOut } = state.jobs;
  if (!rows.length) return [empty("No driver is connected.")];
  const names = new Map(state.nodes.map((node) => [node.node_id, nodeName(node)]));
  const now = Date.now() / 1000;
  const lines = rows.map((row) => ({ cells: [
    h("td", { class: "name" }, h("b", {}, row.entrypoint.split("/").pop() || "interactive"), h("br"), h("code", {}, row.job_id)),
    names.get(row.node_id) || "", String(row.pid), age(Math.max(0, now - row.started_s)),
  ] }));
  return [table(["Script", "Node", ">Process", ">Runs"], lines), ...more(leftOut, "shoal list jobs")];
}

/* --- the page --- */

let heard = 0;

function draw(state) {
  remember(state);
  const states = state.nodes.map((node) => nodeState(node)[1]);
  const dead = states.filter((word) => word === "dead").length;
  show("cluster", `${state.address || "local"} · ${states.length - dead} ${states.length - dead === 1 ? "node" : "nodes"}`,
    ...(dead ? [h("span", { class: "bad" }, `, ${dead} dead`)] : []));
  show("tiles", ...tiles(state));
  show("nodes", ...nodes(state));
  show("tasks", ...tasks(state));
  show("pending", ...pending(state));
  show("actors", ...actors(state));
  show("jobs", ...jobs(state));
  const silent = state.silent.length ? `No answer in time from ${state.silent.join(", ")}: what only they know is missing.` : "";
  notice(state.trouble ? `The head cannot be reached: ${state.trouble}. What runs goes on.` : silent, !state.trouble);
  document.getElementById("page").hidden = false;
  document.title = dead ? `shoal (${dead} dead)` : "shoal";
}

function notice(text, mild = false) {
  const place = document.getElementById("notice");
  place.className = mild ? "mild" : "";
  place.textContent = text;
  place.hidden = !text;
}

function freshness() {
  const late = Date.now() - heard;
  document.body.classList.toggle("stale", heard > 0 && late > STALE_MS);
  show("freshness", heard ? (late < LATE_MS ? "live" : `as of ${age(late / 1000)} ago`) : "");
}

async function look() {
  try {
    const answer = await fetch("/api/state", { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(15000) });
    if (answer.status === 401) {
      notice("This visit has ended. Run `shoal dashboard` on the head's machine for a new link.");
      return false;
    }
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const state = await answer.json();
    heard = Date.now();
    draw(state);
  } catch (error) {
    const gone = error instanceof TypeError || error.name === "TimeoutError"; // what `fetch` says of an address without answer
    notice(gone ? "The dashboard does not answer: its cluster has ended, or cannot be reached from here."
      : `No state of the cluster: ${error.message || error}`);
  }
  return true;
}

async function live() {
  for (;;) {
    if (!document.hidden && !(await look())) return;
    await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
  }
}

setInterval(freshness, 500);
live();
