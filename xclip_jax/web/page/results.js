// The videos shown: all of them, those for a text, or those like a video or a clip of one's own.

import { FRESH, go } from "./address.js";
import { framePath, get, likePath, rowPath } from "./api.js";
import { byId, el, icon, isolated } from "./dom.js";
import { count, cut, number, plain } from "./format.js";
import { fill, grid } from "./grid.js";
import { failure, notice, skeletons } from "./notice.js";
import { clip, progress, send } from "./upload.js";

export const PAGE = 24; // videos shown at first, and added by "more"

let shown = null; // {key, rows, list, wanted}: what is on the page
let running = null; // the AbortController of the request under way
let played = null; // the URL of the clip in the chip
let took = Infinity; // milliseconds of the last search

/** Returns how long the server's last search took, Infinity before the first. */
export const milliseconds = () => took;

/** Shows what the address asks for; `info` is what /api/index says. */
export async function show(address, info) {
  const { q, like, upload, clip: name, where } = address;
  const key = JSON.stringify([q, like, upload, name, where]);
  const wanted = Math.max(PAGE, Math.min(Number(address.k) || PAGE, 100 * PAGE));
  if (shown?.key === key && wanted <= shown.wanted) return;
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const fresh = shown?.key !== key;
  const section = byId("results");
  section.setAttribute("aria-busy", "true");
  if (fresh) {
    shown = null;
    title(address);
    chip(address);
    said("");
    section.replaceChildren(skeletons(12));
  }
  try {
    const answer = await rowsFor(address, fresh ? 0 : shown.rows.length, wanted, info, signal);
    if (fresh) {
      shown = { key, rows: [], list: grid() };
      section.replaceChildren(shown.list);
    }
    place(answer, address, wanted, info);
  } catch (error) {
    if (error.name === "AbortError") return;
    shown = null;
    said("");
    section.replaceChildren(failure(error, () => show(address, info)));
  } finally {
    if (!signal.aborted) section.setAttribute("aria-busy", "false");
  }
}

/** Returns {rows, total, milliseconds}: from `offset` on, where all videos are shown. */
async function rowsFor(address, offset, wanted, info, signal) {
  const { q, like, upload, clip: name, where } = address;
  const k = Math.min(wanted, info.limits?.results ?? wanted);
  const options = { signal, waiting: (s) => said(`The server is busy: again in ${s} s …`) };
  let answer;
  if (name !== null) {
    const file = clip(upload);
    if (!file) return { rows: [], gone: true };
    const bar = progress(file, () => {
      running?.abort();
      history.back();
    });
    byId("results").replaceChildren(bar.element);
    const limit = info.limits?.upload_bytes;
    answer = await send(file, { k, where }, { signal, limit, show: bar.show });
  } else if (like !== null) answer = await get(likePath(like), { k, where }, options);
  else if (q !== null) answer = await get("api/search", { q, k, where }, options);
  else {
    const limit = Math.min(wanted - offset, k);
    const all = await get("api/videos", { offset, limit, where }, options);
    return { rows: all.videos, total: all.total };
  }
  return { rows: answer.results.slice(offset), full: k, milliseconds: answer.milliseconds };
}

/** Puts an answer's rows behind those that are there. */
function place(answer, address, wanted, info) {
  const section = byId("results");
  if (answer.gone) {
    const line = "Clips are not kept, and the page was loaded anew. Choose it again.";
    section.replaceChildren(notice("The clip is no longer here", [line]));
    return;
  }
  const first = shown.rows.length;
  shown.rows.push(...answer.rows);
  shown.wanted = wanted;
  const { rows, list } = shown;
  if (!rows.length) {
    section.replaceChildren(address.where || info.videos ? nothing(address) : empty());
    said("No video");
    return;
  }
  fill(list, answer.rows, rows[0].score);
  const total = answer.total ?? null;
  const time = answer.milliseconds;
  took = time ?? took;
  said(
    total !== null && total > rows.length
      ? `${rows.length} of ${count(total, "video")}`
      : count(rows.length, "video") + (time === undefined ? "" : ` in ${number(time, 0)} ms`),
  );
  section.querySelector(".more")?.remove();
  const limit = info.limits?.results ?? Infinity;
  const left = total !== null ? rows.length < total : rows.length === wanted && wanted < limit;
  if (left && answer.rows.length) {
    const more = () => go({ k: String(rows.length + PAGE) }, { replace: true });
    section.append(el("button", { type: "button", class: "more", onclick: more }, "Show more"));
  }
  if (first) list.querySelectorAll("a.open")[first]?.focus();
}

function nothing({ where }) {
  const clear = () => go({ where: null });
  const button = el("button", { type: "button", onclick: clear }, "Remove the filter");
  return notice("No video meets the filter", where ? [el("code", {}, where)] : [], [button]);
}

function empty() {
  const command = "xclip-jax index FOLDER --workdir RUN --index INDEX";
  return notice("This index holds no video yet", [
    "Put some in, then load this page anew:",
    el("pre", {}, command),
  ]);
}

export function said(text) {
  byId("status").textContent = text;
}

/** Names what is shown in the heading and the window's title. */
export function title({ q, like, clip: name }) {
  byId("heading").textContent =
    q !== null ? "Results" : like !== null || name !== null ? "Videos like this" : "All videos";
  const what = q ?? (name ? `like ${name}` : like ? "similar videos" : null);
  document.title = what ? `${cut(plain(what))} · xclip-jax` : "xclip-jax";
}

/** Shows which video or clip the results are like. */
async function chip({ like, clip: name, upload }) {
  const about = byId("about");
  about.replaceChildren();
  if (played) URL.revokeObjectURL(played);
  played = null;
  if (like === null && name === null) return;
  const label = isolated(name ? plain(name) : "");
  let picture = null;
  if (like !== null) {
    picture = el("img", { src: framePath(like, null, 96), alt: "" });
    const signal = running.signal;
    get(rowPath(like), {}, { signal }).then((row) => (label.textContent = plain(row.name)), () => {});
  } else if (clip(upload)) {
    picture = el("video", { muted: true, preload: "metadata", "aria-hidden": "true" });
    picture.onerror = () => picture.remove();
    played = URL.createObjectURL(clip(upload));
    picture.src = played;
  }
  const clear = el(
    "button",
    { type: "button", class: "quiet icon", "aria-label": "Show all videos", onclick: () => go(FRESH) },
    icon("close"),
  );
  about.append(el("p", { class: "chip" }, picture, el("span", {}, "Like ", label), clear));
}
