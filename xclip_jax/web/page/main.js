// Starts the page: what the index is, then whatever the address asks for.

import { onChange, read } from "./address.js";
import { get } from "./api.js";
import { byId, el } from "./dom.js";
import { count, plain } from "./format.js";
import * as keys from "./keys.js";
import { failure, skeletons } from "./notice.js";
import * as results from "./results.js";
import * as search from "./search.js";
import * as upload from "./upload.js";
import * as viewer from "./viewer.js";

async function start() {
  byId("results").replaceChildren(skeletons(12));
  search.show(read());
  let info;
  try {
    info = await get("api/index");
  } catch (error) {
    byId("results").replaceChildren(failure(error, start));
    return;
  }
  footer(info);
  const show = (address) => {
    search.show(address);
    results.show(address, info);
    viewer.show(address, info);
  };
  onChange(show);
  show(read());
  get("api/videos", { offset: 0, limit: 12 }).then(
    (answer) => search.examples(answer.videos),
    () => {}, // the filter just has no example from this index
  );
}

function footer(info) {
  const parts = [count(info.videos, "video"), plain(info.model)];
  if (!info.moments) parts.push("no moments kept");
  byId("footer").replaceChildren(
    el("span", {}, parts.join(" · ")),
    el("a", { href: "docs" }, "JSON interface"),
  );
}

keys.listen();
search.listen(results.milliseconds);
upload.listen();
viewer.listen();
start();
