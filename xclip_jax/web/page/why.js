// Why this video: what each comparison adds to the score, and the similarities of words and frames.

import { explainPath, get } from "./api.js";
import { el } from "./dom.js";
import { number, signed } from "./format.js";
import { heatmap } from "./heatmap.js";
import { failure } from "./notice.js";

const NAMES = {
  video_sentence: ["whole text, whole video", "video-sentence"],
  video_word: ["words, whole video", "video-word"],
  sentence_frame: ["whole text, frames", "sentence-frame"],
  frame_word: ["words, frames", "frame-word"],
  centers: ["words and frames, summed up", "centers"],
};

/** Fills `place` with what makes the score of `row` for the text `ask`, `below` with the heat map. */
export async function show(place, below, { row, ask, seek, signal }) {
  const title = el("h3", {}, "Why this video?");
  const bar = () => el("div", { class: "skeleton line" });
  place.replaceChildren(title, bar(), bar(), bar(), bar());
  below.replaceChildren();
  try {
    const found = await get(explainPath(row.id), { q: ask }, { signal });
    const parts = Object.entries(found.parts ?? {});
    place.replaceChildren(
      title,
      el("p", { class: "note" }, sentence(found, parts)),
      ...(parts.length ? [breakdown(parts, found.score)] : []),
      ...(found.absent ? [el("p", { class: "note absent" }, found.absent)] : []),
    );
    if (found.similarities[0]?.length) below.replaceChildren(heatmap(row, found, seek));
  } catch (error) {
    if (error.name === "AbortError") return;
    const again = () => show(place, below, { row, ask, seek, signal });
    place.replaceChildren(title, failure(error, again));
  }
}

function sentence(found, parts) {
  if (parts.length < 2) return `The score is ${number(found.score)}.`;
  return `The score of ${number(found.score)} is the sum of ${parts.length} comparisons.`;
}

function breakdown(parts, score) {
  const values = parts.map(([, points]) => points);
  const low = Math.min(0, ...values);
  const wide = Math.max(0, ...values) - low || 1;
  const percent = (x) => `${(100 * x) / wide}%`;
  const rows = parts.map(([name, points]) => {
    const [words, term] = NAMES[name] ?? [name.replaceAll("_", " "), name];
    const fill = el("i", {
      class: points < 0 ? "minus" : "plus",
      css: { left: percent(Math.min(points, 0) - low), width: percent(Math.abs(points)) },
    });
    const zero = el("i", { class: "zero", css: { left: percent(-low) } });
    return el(
      "tr",
      {},
      el("th", { scope: "row", title: term }, words),
      el("td", { class: "track", "aria-hidden": "true" }, el("div", {}, fill, zero)),
      el("td", { class: "points" }, signed(points)),
    );
  });
  const total = el(
    "tr",
    { class: "total" },
    el("th", { scope: "row" }, "score"),
    el("td", { "aria-hidden": "true" }),
    el("td", { class: "points" }, number(score)),
  );
  return el(
    "table",
    { class: "parts" },
    el("caption", { class: "hidden" }, "Points of the score by comparison"),
    el("thead", { class: "hidden" }, el("tr", {}, ...heads("Comparison", "Points"))),
    el("tbody", {}, rows, total),
  );
}

function heads(first, last) {
  const head = (text) => el("th", { scope: "col" }, text);
  return [head(first), el("td", {}), head(last)];
}
