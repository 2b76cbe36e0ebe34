// The search box and the filter. Enter searches; where answers come fast, a pause in typing too.

import { FRESH, go, read } from "./address.js";
import { byId, el } from "./dom.js";

const PAUSE = 350; // milliseconds without a key
const FAST = 100; // milliseconds of a search, below which one may be done before Enter

let last = {}; // the address that the fields show
let pausing = null;
let typed = false; // a search of this typing is in the history: the next takes its place

/** Connects the fields to the address; `milliseconds()` is how long the last search took. */
export function listen(milliseconds) {
  const box = byId("q");
  const search = (replace) => {
    clearTimeout(pausing);
    const q = box.value.trim() || null;
    if (q === read().q && read().v === null) return;
    go({ ...FRESH, q }, { replace });
  };
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search(typed);
    typed = false;
  });
  box.addEventListener("input", () => {
    clearTimeout(pausing);
    if (milliseconds() > FAST || !box.value.trim()) return;
    pausing = setTimeout(() => {
      search(typed);
      typed = true;
    }, PAUSE);
  });
  box.addEventListener("search", () => box.value || search(false)); // the cross in the box
  box.addEventListener("blur", () => (typed = false));

  const where = byId("where");
  byId("where-form").addEventListener("submit", (event) => {
    event.preventDefault();
    go({ where: where.value.trim() || null, k: null });
  });
  byId("where-clear").addEventListener("click", () => {
    where.value = "";
    if (read().where) go({ where: null, k: null });
  });
}

/** Puts the address into the fields, but for what is being typed. */
export function show(address) {
  const box = byId("q");
  if (address.q !== (last.q ?? null) && box.value.trim() !== (address.q ?? "")) {
    box.value = address.q ?? "";
  }
  if (address.where !== (last.where ?? null)) {
    byId("where").value = address.where ?? "";
    if (address.where) byId("filter").open = true;
  }
  byId("filter").classList.toggle("on", Boolean(address.where));
  last = address;
}

/** Offers filters on what the videos of this index have; a click puts one into the field. */
export function examples(rows) {
  const found = ["duration < 60"];
  const entries = rows.flatMap((row) => Object.entries(row.metadata ?? {}));
  const simple = entries.filter(([key]) => /^\w+$/.test(key)).sort((a, b) => rank(a) - rank(b));
  const [key, value] = simple[0] ?? [];
  const column = `(metadata, '${key}')`;
  if (Number.isInteger(value)) found.unshift(`json_get_int${column} >= ${value}`);
  else if (typeof value === "number") found.unshift(`json_get_float${column} >= ${value}`);
  else if (typeof value === "string") {
    const text = value.length > 20 ? `LIKE '%${value.split(/\W/)[0]}%'` : `= '${quoted(value)}'`;
    found.unshift(`json_get_string${column} ${text}`);
  }
  const button = (text) => {
    const put = () => {
      byId("where").value = text;
      byId("where").focus();
    };
    return el("button", { type: "button", class: "example", onclick: put }, el("code", {}, text));
  };
  byId("examples").replaceChildren(...found.flatMap((text, i) => [i ? " or " : "", button(text)]));
}

const quoted = (text) => text.replaceAll("'", "''");

/** Short values make the best examples: a set, a year. */
const rank = ([, value]) => (typeof value === "object" ? 1e9 : String(value).length);
