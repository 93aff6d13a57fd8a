// The console: exchanges the token for a cookie, follows the node, and says when it is gone.

import { Endpoints } from "./endpoints.js";
import { Events } from "./events.js";
import { bytes, count, describe, duration, element, put, rate, roundTrip, shortId } from "./format.js";
import { Plot, keep } from "./plot.js";

const AGAIN = 1000; // milliseconds until the next attempt
const SILENCE = 15000; // milliseconds without a sample after which something is wrong
const CLOSED = {
  node: "The node does not run. This page waits for it, and shows what was last known.",
  console: "The console was closed. This page waits for it, and shows what was last known.",
};
const LOST = "The console does not answer: its program has ended, or the network is down. This page shows what was last known, and tries again.";
const FULL = "Too many pages are open. This one waits until another is closed.";
const DENIED = "This page has no access, or no longer: open the address that the console has printed.";

const at = (id) => document.getElementById(id);
let node = "";
let watch = 0;
let points = [];
let latest = null; // what the last sample said
let paused = false;
let source = null;
let heard = 0;

const plots = [
  new Plot(at("throughput"), "Throughput", [[1, "in", "one"], [2, "out", "two"]], rate, 1000),
  new Plot(at("round-trip"), "Round trip", [[5, "median", "one"], [6, "slowest twentieth", "two"]], roundTrip, 0.0001),
  new Plot(at("sessions"), "Sessions", [[7, "all", "one"], [8, "suspended", "two"]], count, 4),
];
const endpoints = new Endpoints(ask, act);
const events = new Events((id) => endpoints.select(id));

// ------------------------------------------------------------------------------- asking

async function ask(path, query = {}) {
  try {
    const answer = await fetch(`${path}?${new URLSearchParams(query)}`);
    if (answer.status === 401) return fail(DENIED, "denied");
    return answer.ok ? await answer.json() : null;
  } catch {
    return null; // the stream of samples says what is wrong
  }
}

async function post(path, body) {
  return fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

async function act(what) {
  try {
    const answer = await post("control", what);
    return answer.ok ? (await answer.json()).done : (await answer.text()).trim();
  } catch {
    return "The console does not answer.";
  }
}

// Exchanges the token in the address, if there is one, and takes it out of the address bar.
async function signIn() {
  const token = location.hash.slice(1);
  if (!token) return true;
  history.replaceState(null, "", location.pathname);
  try {
    return (await post("session", { token })).ok;
  } catch {
    return true; // following says what is wrong
  }
}

// ------------------------------------------------------------------------------ following

function follow() {
  source?.close();
  source = new EventSource("live");
  heard = Date.now();
  source.addEventListener("begin", (event) => begin(JSON.parse(event.data)));
  source.addEventListener("sample", (event) => {
    heard = Date.now();
    const told = JSON.parse(event.data);
    keep(points, told.point);
    events.add(told.events ?? []);
    latest = told;
    if (!paused) show();
  });
  source.addEventListener("end", (event) => {
    fail(CLOSED[JSON.parse(event.data)], "gone");
    retry();
  });
  source.addEventListener("error", explain);
}

function begin(told) {
  if (told.watch !== watch) events.clear(); // their numbers begin again
  ({ node, watch } = told);
  points = [];
  for (const point of told.points) keep(points, point);
  events.add(told.events);
  latest = told;
  put(at("node-id"), shortId(node));
  at("control").hidden = !told.control;
  at("banned").dataset.control = told.control;
  at("notice").hidden = true;
  document.documentElement.classList.remove("stale");
  document.title = `${shortId(node)} – STT console`;
  setState(paused ? "paused" : "live");
  show();
}

// Finds out why there is no stream.
async function explain() {
  const refused = source.readyState === EventSource.CLOSED;
  source.close();
  try {
    const answer = await fetch("endpoints?count=0");
    if (answer.status === 401) fail(DENIED, "denied");
    else if (!answer.ok) fail(LOST, "gone");
    else if (refused) fail(FULL, "gone");
  } catch {
    fail(LOST, "gone");
  }
  retry();
}

function retry() {
  source.close();
  source = null;
  if (at("state").dataset.state !== "denied") setTimeout(follow, AGAIN);
}

function fail(text, state) {
  setState(state);
  put(at("notice"), text);
  at("notice").hidden = false;
  document.documentElement.classList.add("stale");
  document.title = "Gone – STT console";
  return null;
}

function setState(state) {
  const words = { live: "Live", paused: "Paused", gone: "Gone", denied: "No access" };
  at("state").dataset.state = state;
  put(at("state"), words[state]);
}

// -------------------------------------------------------------------------------- showing

function show() {
  const { stats } = latest;
  put(at("address"), latest.address || "nowhere");
  put(at("uptime"), duration(latest.uptime));
  at("hub-fact").hidden = latest.hub === null;
  put(at("hub"), latest.hub ?? "");
  for (const plot of plots) plot.draw(points);
  describe(at("figures"), [
    ["Received", bytes(stats.bytes_received)],
    ["Messages in", count(stats.messages_received)],
    ["Sent", bytes(stats.bytes_sent)],
    ["Messages out", count(stats.messages_sent)],
    ["Not yet taken", bytes(stats.buffered_bytes)],
    ["Unacknowledged", bytes(stats.unacknowledged_bytes)],
    ["In handshake", count(stats.half_open)],
    ["Peers", count(stats.peers)],
    ["Sessions opened", count(stats.sessions_opened)],
    ["Sessions lost", count(stats.sessions_lost)],
    ["Resumes", count(stats.resumes)],
    ["Handshakes failed", count(stats.handshakes_failed)],
    ["Handshakes dropped", count(stats.handshakes_dropped)],
    ["Peers denied", count(stats.peers_denied)],
  ]);
  const states = Object.entries(latest.states).sort(([one], [other]) => (one < other ? -1 : 1));
  put(at("states"), states.map(([state, number]) => `${count(number)} ${state}`).join(", "));
  showHubs(latest.hubs);
  showBanned(latest.banned, latest.banned_count);
  events.show();
  endpoints.refresh();
}

function showHubs(hubs) {
  at("hubs").hidden = !hubs.length;
  const body = at("hubs").querySelector("tbody");
  while (body.children.length > hubs.length) body.lastElementChild.remove();
  while (body.children.length < hubs.length) {
    const row = element("tr");
    row.append(element("th", "", { scope: "row" }), element("td"));
    row.append(element("td", "", { class: "number" }), element("td", "", { class: "number" }));
    body.append(row);
  }
  hubs.forEach((hub, index) => {
    const row = body.children[index];
    row.dataset.state = hub.connected ? "connected" : "suspended";
    const texts = [hub.name, row.dataset.state, roundTrip(hub.rtt), count(hub.endpoints)];
    texts.forEach((text, column) => put(row.children[column], text));
  });
}

function showBanned(banned, all) {
  const section = at("banned");
  section.hidden = !banned.length;
  const list = section.querySelector("ul");
  const shown = `${section.dataset.control} ${all} ${banned.join()}`;
  if (list.dataset.shown === shown) return; // so that a button keeps the focus
  list.dataset.shown = shown;
  const lines = banned.map((id) => {
    const line = element("li");
    line.append(element("span", shortId(id), { class: "id", title: id }));
    if (section.dataset.control === "true") {
      const button = element("button", "Unban", { type: "button", "aria-label": `Unban ${shortId(id)}` });
      button.addEventListener("click", () => act({ do: "unban", endpoint: id }));
      line.append(button);
    }
    return line;
  });
  if (all > banned.length) lines.push(element("li", `and ${count(all - banned.length)} more`));
  list.replaceChildren(...lines);
}

// ------------------------------------------------------------------------------- beginning

at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  if (at("state").dataset.state === "live" || at("state").dataset.state === "paused") {
    setState(paused ? "paused" : "live");
  }
  if (!paused && latest) show();
});

at("node-id").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(node);
    put(at("node-id"), "copied");
  } catch {
    put(at("node-id"), node); // no clipboard here: show it whole, to be selected
    return;
  }
  setTimeout(() => put(at("node-id"), shortId(node)), 1200);
});

setInterval(() => {
  if (source && Date.now() - heard > SILENCE) explain();
}, 1000);

async function start() {
  if (at(location.hash.slice(1))) history.replaceState(null, "", location.pathname);
  if (await signIn()) follow();
  else fail(DENIED, "denied");
}

window.addEventListener("hashchange", () => {
  if (!at(location.hash.slice(1))) start(); // not a link within the page
});
start();
