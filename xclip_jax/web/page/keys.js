// Keys that work anywhere on the page: "/" for the search box, "?" for the list of keys.

import { byId } from "./dom.js";

export function listen() {
  const help = byId("keys");
  byId("help").addEventListener("click", () => help.showModal());
  help.addEventListener("click", (event) => event.target === help && help.close());
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || writes(event.target)) return;
    if (event.key === "/" && !document.querySelector("dialog[open]")) {
      event.preventDefault();
      byId("q").focus();
      byId("q").select();
    } else if (event.key === "?" && !help.open) {
      event.preventDefault();
      help.showModal();
    } else if (event.key === "ArrowDown" && event.target === document.body) {
      const first = document.querySelector("#results a.open");
      if (!first) return;
      event.preventDefault();
      first.focus();
    }
  });
  byId("q").addEventListener("keydown", (event) => {
    const first = document.querySelector("#results a.open");
    if (event.key !== "ArrowDown" || !first) return;
    event.preventDefault();
    first.focus();
  });
}

/** Whether keys pressed there are text. */
function writes(target) {
  const types = new Set(["text", "search", "password"]);
  return target instanceof HTMLInputElement && types.has(target.type);
}
