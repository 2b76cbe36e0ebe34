// What is said in place of results: nothing there, nothing found, an error, a token asked for.

import { ApiError, signIn } from "./api.js";
import { el } from "./dom.js";

/** Returns a block with a title, lines below it and buttons. */
export function notice(title, lines = [], buttons = []) {
  return el(
    "div",
    { class: "notice" },
    el("p", { class: "title" }, title),
    lines.map((line) => (line instanceof Node ? line : el("p", {}, line))),
    buttons.length ? el("div", { class: "row" }, buttons) : null,
  );
}

/** Returns skeletons of cards, which have the size of those to come. */
export function skeletons(count) {
  const card = () =>
    el("li", { class: "card skeleton" }, el("div", { class: "poster" }), el("i"), el("i"));
  return el("ul", { class: "grid", "aria-hidden": "true" }, Array.from({ length: count }, card));
}

/** Returns what to show for an error; `again` repeats what failed. */
export function failure(error, again) {
  const text = error instanceof ApiError ? error.message : `The page failed: ${error.message}`;
  if (error.status === 401) return token();
  const retry = el("button", { type: "button", onclick: again }, "Try again");
  const final = FINAL.has(error.status);
  const block = notice(TITLES[error.status] ?? "That did not work", [text], final ? [] : [retry]);
  block.classList.add("error");
  block.setAttribute("role", "alert");
  return block;
}

/** What the same request would get again. */
const FINAL = new Set([400, 404, 410, 413, 415, 422]);

const TITLES = {
  0: "No connection",
  400: "That cannot be asked",
  404: "Not here",
  410: "The file has changed",
  413: "Too large",
  415: "Not a video",
  422: "That cannot be asked",
  429: "Too many requests",
  503: "The server is busy",
};

function token() {
  const input = el("input", { type: "password", autocomplete: "current-password", id: "token" });
  const line = el("p", { role: "status", class: "note" }, "It was printed when the server started.");
  const submit = async (event) => {
    event.preventDefault();
    try {
      await signIn(input.value.trim());
    } catch (error) {
      line.textContent = error.status === 401 ? "That is not this server's token." : error.message;
      input.select();
    }
  };
  const form = el(
    "form",
    { class: "notice", onsubmit: submit },
    el("p", { class: "title" }, el("label", { for: "token" }, "This server asks for its token")),
    line,
    el("div", { class: "row" }, input, el("button", { type: "submit" }, "Sign in")),
  );
  queueMicrotask(() => input.isConnected && input.focus());
  return form;
}
