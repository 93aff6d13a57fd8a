// The log of events: what the page has been told, filtered, the newest at the top.

import { clock, count, element, put, shortId } from "./format.js";

const KEPT = 1000;
const SHOWN = 200;
const IDS = new Set(["peer_node_id", "session_id"]);
const WORDS = { peer_node_id: "peer", session_id: "session", error_type: "", status: "", reason: "", hub: "" };
const MOODS = [
  [/^error$/, "bad"],
  [/_(suspended|lost)$/, "warn"],
  [/_(connected|created|resumed|joined)$/, "good"],
];

export class Events {
  constructor(select) {
    this.select = select; // shows an endpoint
    this.log = document.getElementById("log");
    this.summary = document.getElementById("events-count");
    this.kept = []; // the newest first
    this.last = 0; // the number of the newest
    this.skipped = 0;
    this.text = "";
    this.kind = "";
    document.getElementById("event-filter").addEventListener("input", (event) => {
      this.text = event.target.value.trim().toLowerCase();
      this.show();
    });
    document.getElementById("event-kind").addEventListener("change", (event) => {
      this.kind = event.target.value;
      this.show();
    });
    this.log.addEventListener("click", (event) => {
      const peer = event.target.closest("button")?.dataset.peer;
      if (peer) this.select(peer);
    });
  }

  // Forgets everything: the numbers of events begin again.
  clear() {
    this.kept = [];
    this.last = 0;
    this.skipped = 0;
    this.log.replaceChildren(); // its lines are known by their numbers
  }

  // Adds those that are new. A gap in their numbers shows how many the page was not told.
  add(events) {
    for (const [number, time, name, facts] of events) {
      if (number <= this.last) continue;
      this.skipped += number - this.last - 1;
      this.last = number;
      const words = Object.entries(facts).map(([key, value]) => `${key} ${value}`);
      this.kept.unshift({ number, time, name, facts, text: `${name} ${words.join(" ")}`.toLowerCase() });
    }
    this.kept.length = Math.min(this.kept.length, KEPT);
  }

  show() {
    const matching = this.kept.filter((event) => this.#matches(event));
    const shown = matching.slice(0, SHOWN);
    const present = new Map([...this.log.children].map((line) => [Number(line.dataset.number), line]));
    this.log.replaceChildren(...shown.map((event) => present.get(event.number) ?? line(event)));
    if (!shown.length) {
      const text = this.kept.length ? "No event matches." : "No events yet.";
      this.log.replaceChildren(element("li", text, { class: "none" }));
    }
    const skipped = this.skipped ? `, ${count(this.skipped)} skipped` : "";
    put(this.summary, this.last ? `${count(this.last)} so far, ${count(shown.length)} shown${skipped}` : "");
  }

  #matches({ name, text }) {
    return (!this.kind || name.startsWith(this.kind)) && (!this.text || text.includes(this.text));
  }
}

function line(event) {
  const made = element("li", null, { "data-number": event.number });
  const mood = MOODS.find(([pattern]) => pattern.test(event.name))?.[1] ?? "";
  const facts = element("span", null, { class: "what" });
  for (const [key, value] of Object.entries(event.facts)) {
    const word = WORDS[key] ?? key;
    const text = IDS.has(key) ? shortId(String(value)) : String(value);
    const fact = element("span", word ? `${word} ` : "");
    if (key === "peer_node_id") {
      fact.append(element("button", text, { type: "button", class: "id", "data-peer": value, "aria-haspopup": "dialog" }));
    } else {
      fact.append(element("span", text, IDS.has(key) ? { class: "id" } : {}));
    }
    facts.append(fact);
  }
  made.append(
    element("time", clock(event.time), { datetime: new Date(event.time * 1000).toISOString() }),
    element("span", event.name, { class: `event ${mood}` }),
    facts,
  );
  return made;
}
