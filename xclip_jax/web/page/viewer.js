// One video, opened: the player, its best moments for a text, and why the model found it.

import { FRESH, go, leave, read } from "./address.js";
import { get, rowPath } from "./api.js";
import { byId, el, icon, isolated } from "./dom.js";
import { clock, cut, plain, value } from "./format.js";
import * as moments from "./moments.js";
import { failure } from "./notice.js";
import { player } from "./player.js";
import { title } from "./results.js";
import * as why from "./why.js";

let open = null; // {id, ask, row, player, parts, abort}: what the dialog shows

/** Shows the video that the address names, or none. */
export async function show(address, info) {
  const dialog = byId("viewer");
  if (address.v === null) {
    if (dialog.open) dialog.close();
    return;
  }
  const ask = address.ask ?? address.q;
  if (open?.id === address.v) {
    if (open.row && open.ask !== ask) answer(ask, info);
    return;
  }
  close();
  const mine = (open = { id: address.v, ask: null, abort: new AbortController() });
  dialog.replaceChildren(head("…"), el("div", { class: "stage skeleton" }));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  try {
    mine.row = await get(rowPath(address.v), {}, { signal: mine.abort.signal });
  } catch (error) {
    if (error.name === "AbortError") return;
    const again = () => {
      open = null;
      show(read(), info);
    };
    dialog.replaceChildren(head("Not shown"), failure(error, again));
    return;
  }
  draw(dialog, address, ask, info);
}

/** Connects the dialog's own ways of closing to the address. */
export function listen() {
  const dialog = byId("viewer");
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    leave();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && leave());
  dialog.addEventListener("close", () => {
    const id = open?.id;
    close();
    title(read());
    const links = [...document.querySelectorAll("#results a.open")];
    links.find((link) => link.dataset.id === id)?.focus({ preventScroll: true });
    if (read().v !== null) leave(); // closed by the browser, not by the address
  });
}

function close() {
  open?.abort.abort();
  open?.player?.stop();
  open = null;
}

function head(name, label = "") {
  const button = el(
    "button",
    { type: "button", class: "quiet icon", "aria-label": "Close", title: "Close (Esc)" },
    icon("close"),
  );
  button.addEventListener("click", leave);
  return el(
    "div",
    { class: "top" },
    el("h2", { id: "viewer-name", title: label }, isolated(name)),
    button,
  );
}

function draw(dialog, address, ask, info) {
  const { row } = open;
  const name = plain(row.name);
  document.title = `${cut(name)} · xclip-jax`;
  open.player = player(row);
  open.parts = { moments: el("div"), why: el("div"), words: el("div") };
  const like = () => go({ ...FRESH, like: row.id });
  const input = el("input", {
    id: "ask",
    type: "search",
    value: ask ?? "",
    placeholder: "Describe a moment of it",
    enterkeyhint: "search",
  });
  const asking = el(
    "form",
    { class: "ask" },
    el("label", { for: "ask" }, "What to look for in it"),
    el("div", { class: "row" }, input, el("button", { type: "submit" }, "Look")),
  );
  asking.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim() || null;
    go({ ask: text === read().q ? null : text, t: null }, { replace: true });
  });
  dialog.replaceChildren(
    head(name, name),
    el(
      "div",
      { class: "first" },
      el("div", { class: "left" }, open.player.element, open.parts.moments),
      el(
        "div",
        { class: "right" },
        asking,
        open.parts.why,
        facts(row),
        el("button", { type: "button", onclick: like }, "More like this"),
      ),
    ),
    open.parts.words,
  );
  dialog.querySelector("button").focus({ preventScroll: true }); // the one before is gone
  answer(ask, info);
  if (address.t !== null) open.player.seek(Number(address.t) || 0, { play: false });
}

function facts(row) {
  const entries = [["Length", row.duration > 0 ? clock(row.duration) : "unknown"]];
  for (const [key, given] of Object.entries(row.metadata ?? {})) {
    entries.push([plain(key), value(given)]);
  }
  const line = ([key, text]) => el("div", {}, el("dt", {}, isolated(key)), el("dd", {}, isolated(text)));
  return el("dl", { class: "facts" }, entries.map(line));
}

/** Fills in the moments and the score for a text; what was asked before is given up. */
function answer(ask, info) {
  open.abort.abort();
  open.abort = new AbortController();
  open.ask = ask;
  const { row, player, parts } = open;
  const { signal } = open.abort;
  const seek = (t) => {
    player.seek(t, { play: true });
    go({ t: t.toFixed(1) }, { replace: true, quiet: true });
  };
  if (ask === null) {
    const line = "Describe a moment to see where it is and how the model scores this video for it.";
    parts.moments.replaceChildren(el("p", { class: "note" }, line));
    parts.why.replaceChildren();
    parts.words.replaceChildren();
    return;
  }
  moments.show(parts.moments, { row, ask, info, player, seek, signal });
  why.show(parts.why, parts.words, { row, ask, seek, signal });
}
