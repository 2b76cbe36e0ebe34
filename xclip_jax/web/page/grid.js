// The grid of videos: one card each, and the arrow keys that move through them.

import { FRESH, go, href } from "./address.js";
import { framePath } from "./api.js";
import { el, isolated } from "./dom.js";
import { clock, number, plain, value } from "./format.js";
import { preview } from "./preview.js";

const SHOWN = 3; // entries of a video's metadata on its card

/** Returns an empty grid; cards are put in with `fill`. */
export function grid() {
  return el("ul", { class: "grid", role: "list", onkeydown: move });
}

/** Appends the cards of `rows`; `best` is the highest score, which fills a bar. */
export function fill(list, rows, best) {
  list.append(...rows.map((row) => card(row, best)));
}

function card(row, best) {
  const name = plain(row.name);
  const image = el("img", {
    src: framePath(row.id, null, 360),
    alt: "",
    loading: "lazy",
    decoding: "async",
    onerror: (event) => event.target.replaceWith(el("span", { class: "none" }, "no picture")),
  });
  const box = el("div", { class: "poster" }, image);
  if (row.duration > 0) box.append(el("span", { class: "badge" }, clock(row.duration)));
  const link = el(
    "a",
    { class: "open", href: href({ v: row.id, t: null, ask: null }), "data-id": row.id },
    box,
    isolated(name, { class: "name", title: name }),
  );
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab, as for any link
    event.preventDefault();
    go({ v: row.id, t: null, ask: null });
  });
  preview(link, box, row.id);
  const like = el(
    "button",
    { type: "button", class: "like", onclick: () => go({ ...FRESH, like: row.id }) },
    "More like this",
    el("span", { class: "hidden" }, `: ${name}`),
  );
  const score = row.score === undefined ? null : scoreLine(row, best);
  return el("li", { class: "card" }, link, score, about(row.metadata), like);
}

function scoreLine(row, best) {
  const part = best > 0 ? Math.max(0, Math.min(1, row.score / best)) : 0;
  return el(
    "p",
    { class: "score", title: "The model's score; a full bar is the best result's" },
    el("span", { class: "hidden" }, `Rank ${row.rank}, score `),
    el("i", { "aria-hidden": "true" }, el("b", { css: { width: `${100 * part}%` } })),
    number(row.score),
  );
}

function about(metadata) {
  const entries = Object.entries(metadata ?? {}).slice(0, SHOWN);
  if (!entries.length) return null;
  const parts = entries.map(([key, given], i) => [
    i ? " · " : "",
    el("span", { class: "key" }, `${plain(key)} `),
    isolated(value(given)),
  ]);
  return el("p", { class: "about" }, parts.flat());
}

function move(event) {
  const links = [...event.currentTarget.querySelectorAll("a.open")];
  const at = links.indexOf(event.target.closest("a.open"));
  if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  const top = links[0].getBoundingClientRect().top;
  const columns = links.filter((link) => link.getBoundingClientRect().top === top).length;
  const step = {
    ArrowRight: at + 1,
    ArrowLeft: at - 1,
    ArrowDown: at + columns,
    ArrowUp: at - columns,
    Home: 0,
    End: links.length - 1,
  }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  links[step]?.focus();
}
