// The table of endpoints. The console filters and sorts it; the page asks for the rows it shows.

import { ago, bytes, count, describe, element, put, rate, roundTrip, shortId } from "./format.js";

const PAGE = 25;
const COLUMNS = [
  // how it is sorted, title, class, text of a row
  ["name", "Endpoint", "", null],
  ["state", "State", "", stateOf],
  [null, "Address", "wide", (row) => row.address || "–"],
  ["rtt", "Round trip", "number medium", (row) => roundTrip(row.rtt)],
  ["received", "In", "number", (row) => rate(row.received)],
  ["sent", "Out", "number", (row) => rate(row.sent)],
  ["inbox", "Inbox", "number wide", (row) => bytes(row.inbox)],
  ["unacknowledged", "Unacknowledged", "number wide", (row) => bytes(row.unacknowledged)],
  ["active", "Last message", "number medium", (row, now) => ago(row.active, now)],
];
const ASK_FIRST = new Set(["kick", "ban"]);
const PATIENCE = 4000; // milliseconds in which a second press confirms the first one

export class Endpoints {
  constructor(ask, act) {
    this.ask = ask; // fetches JSON
    this.act = act; // does something to an endpoint
    this.query = { sort: "added", order: "up", filter: "", state: "", offset: 0, count: PAGE };
    this.selected = "";
    this.matching = 0;
    this.asked = 0;
    this.unask = () => {}; // a button that waits for a second press waits no longer
    const section = document.getElementById("endpoints");
    this.body = section.querySelector("tbody");
    this.range = document.getElementById("range");
    this.pager = [...section.querySelectorAll(".pager button")];
    this.dialog = document.getElementById("details");
    this.heads = COLUMNS.map(([sort, title, kind]) => this.#head(sort, title, kind));
    section.querySelector("thead tr").append(...this.heads);
    let typing = null;
    document.getElementById("endpoint-filter").addEventListener("input", (event) => {
      clearTimeout(typing);
      typing = setTimeout(() => this.#ask({ filter: event.target.value.trim(), offset: 0 }), 150);
    });
    document.getElementById("endpoint-state").addEventListener("change", (event) => {
      this.#ask({ state: event.target.value, offset: 0 });
    });
    for (const button of this.pager) button.addEventListener("click", () => this.#turn(button.dataset.go));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row?.dataset.id) this.select(row.dataset.id);
    });
    this.dialog.addEventListener("close", () => (this.selected = ""));
    for (const button of this.dialog.querySelectorAll("[data-do]")) {
      button.addEventListener("click", () => this.#press(button));
    }
  }

  // Shows the rows as they are now.
  async refresh() {
    const number = (this.asked += 1);
    const found = await this.ask("endpoints", { ...this.query, selected: this.selected });
    if (found === null || number !== this.asked) return; // a later question is under way
    this.matching = found.matching;
    if (this.query.offset && this.query.offset >= found.matching) {
      this.query.offset = Math.max(0, PAGE * Math.floor((found.matching - 1) / PAGE));
      return this.refresh();
    }
    this.#show(found.rows, found.time); // by the node's clock: this one may differ
    if (this.selected) this.#detail(found.selected, found.time);
  }

  // Opens the details of an endpoint.
  select(id) {
    this.selected = id;
    this.unask();
    put(this.dialog.querySelector("#details-title"), shortId(id));
    put(this.dialog.querySelector("#details-id"), id);
    put(this.dialog.querySelector("#outcome"), "");
    this.dialog.querySelector("#details-gone").hidden = true;
    this.dialog.querySelector("dl").replaceChildren();
    if (!this.dialog.open) this.dialog.showModal();
    return this.refresh();
  }

  #head(sort, title, kind) {
    const head = element("th", sort === null ? title : null, { scope: "col", class: kind });
    if (sort === null) return head;
    const button = element("button", title, { type: "button" });
    head.append(button);
    button.addEventListener("click", () => {
      const begins = sort === "name" || sort === "state" ? "up" : "down";
      const { sort: before, order } = this.query;
      if (before !== sort) this.#ask({ sort, order: begins, offset: 0 });
      else if (order === begins) this.#ask({ order: begins === "up" ? "down" : "up", offset: 0 });
      else this.#ask({ sort: "added", order: "up", offset: 0 }); // the third press
    });
    return head;
  }

  #ask(changes) {
    Object.assign(this.query, changes);
    this.heads.forEach((head, index) => {
      const sorted = COLUMNS[index][0] !== null && COLUMNS[index][0] === this.query.sort;
      if (sorted) head.setAttribute("aria-sort", this.query.order === "up" ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    return this.refresh();
  }

  #turn(where) {
    const last = PAGE * Math.max(0, Math.floor((this.matching - 1) / PAGE));
    const { offset } = this.query;
    const goal = { first: 0, back: offset - PAGE, on: offset + PAGE, last }[where];
    this.#ask({ offset: Math.max(0, Math.min(last, goal)) });
  }

  // The rows of the table are made once, and then only their texts change.
  #show(rows, now) {
    while (this.body.children.length < rows.length) this.body.append(newRow());
    while (this.body.children.length > Math.max(rows.length, 1)) this.body.lastElementChild.remove();
    if (!rows.length) {
      const none = element("tr");
      const searching = this.query.filter || this.query.state;
      const text = searching ? "No endpoint matches." : "There are no endpoints yet.";
      none.append(element("td", text, { colspan: COLUMNS.length, class: "none" }));
      this.body.replaceChildren(none);
    } else if (this.body.firstElementChild.children.length === 1) {
      this.body.replaceChildren(...rows.map(newRow));
    }
    rows.forEach((row, index) => fill(this.body.children[index], row, now));
    const { offset } = this.query;
    put(this.range, rows.length ? `${count(offset + 1)}–${count(offset + rows.length)} of ${count(this.matching)}` : "");
    for (const button of this.pager) {
      const back = button.dataset.go === "first" || button.dataset.go === "back";
      const off = back ? offset === 0 : offset + PAGE >= this.matching;
      if (off && document.activeElement === button) this.range.parentElement.querySelector("button:not(:disabled)")?.focus();
      button.disabled = off;
    }
  }

  #detail(row, now) {
    this.dialog.querySelector("#details-gone").hidden = row !== null;
    const banned = row?.banned ?? false;
    this.dialog.querySelector('[data-do="unban"]').hidden = !banned && row !== null;
    this.dialog.querySelector('[data-do="ban"]').hidden = banned;
    if (row === null) return;
    put(this.dialog.querySelector("#details-title"), row.name || shortId(row.id));
    describe(this.dialog.querySelector("dl"), [
      ["State", stateOf(row)],
      ["Address", row.address || "–"],
      ["Round trip", roundTrip(row.rtt)],
      ["Sessions", `${count(row.sessions)}, resumed ${count(row.resumes)} times`],
      ["In", `${rate(row.received)}; ${bytes(row.bytes_received)} in ${count(row.messages_received)} messages`],
      ["Out", `${rate(row.sent)}; ${bytes(row.bytes_sent)} in ${count(row.messages_sent)} messages`],
      ["Inbox", `${bytes(row.inbox)} in ${count(row.inbox_messages)} messages`],
      ["Unacknowledged", bytes(row.unacknowledged)],
      ["Last message", ago(row.active, now)],
    ]);
  }

  async #press(button) {
    const verb = button.dataset.do;
    const sure = button.dataset.sure || !ASK_FIRST.has(verb);
    this.unask();
    if (!sure) return this.#askFirst(button, verb);
    const { selected } = this;
    const text = document.getElementById("send-text").value;
    const outcome = this.dialog.querySelector("#outcome");
    put(outcome, "…");
    const done = await this.act({ do: verb, endpoint: selected, text });
    if (this.selected !== selected) return; // another endpoint is shown now, or none
    put(outcome, done);
    await this.refresh();
  }

  #askFirst(button, verb) {
    const label = button.textContent;
    button.dataset.sure = "yes";
    button.textContent = `Really ${verb}?`;
    const timer = setTimeout(() => this.unask(), PATIENCE);
    this.unask = () => {
      clearTimeout(timer);
      delete button.dataset.sure;
      button.textContent = label;
    };
  }
}

function stateOf(row) {
  return row.banned ? `${row.state}, banned` : row.state;
}

function newRow() {
  const row = element("tr");
  for (const [, , kind, text] of COLUMNS) {
    const cell = element(text === null ? "th" : "td", null, { class: kind });
    if (text === null) {
      cell.scope = "row";
      const button = element("button", "", { type: "button", class: "name", "aria-haspopup": "dialog" });
      cell.append(button, element("span", "", { class: "id" }));
    }
    row.append(cell);
  }
  return row;
}

function fill(target, row, now) {
  target.dataset.id = row.id;
  target.dataset.state = row.state;
  COLUMNS.forEach(([, , , text], index) => {
    const cell = target.children[index];
    if (text === null) {
      put(cell.firstElementChild, row.name || shortId(row.id));
      put(cell.lastElementChild, row.name ? shortId(row.id) : "");
    } else {
      put(cell, text(row, now));
    }
  });
}
