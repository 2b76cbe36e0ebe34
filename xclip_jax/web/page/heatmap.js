// Words × frames: how similar each pair is (the cell's colour) and how much it counts (its dot).
//
// A real table with headings, in which the arrow keys move; what a cell means is written below it.

import { framePath } from "./api.js";
import { el, isolated } from "./dom.js";
import { clock, number, plain } from "./format.js";

const THUMB = 96; // pixels of height of a frame above its column
const VISIBLE = 0.005; // attention below this has no dot
const NOTE = "A word stands for the text up to it: the model reads from left to right.";

/** Returns the heat map of an explanation; `seek(t)` moves the player. */
export function heatmap(row, { words, times, similarities, attention }, seek) {
  const flat = similarities.flat();
  const [low, high] = [Math.min(...flat), Math.max(...flat)];
  const most = Math.max(VISIBLE, ...(attention ?? []).flat().map(Math.abs));
  const against = (attention ?? []).flat().some((weight) => weight <= -VISIBLE);
  const inspector = inspect(row);
  const headings = times.map((t) => {
    const picture = el("img", { src: framePath(row.id, t, THUMB), alt: "", loading: "lazy" });
    const button = { type: "button", onclick: () => seek(t), title: "Show this time" };
    return el("th", { scope: "col" }, el("button", button, picture, clock(t, true)));
  });
  const lines = words.map((word, i) => {
    const cells = times.map((t, j) => {
      const weight = attention?.[i]?.[j] ?? 0;
      const cell = { word: plain(word), t, similarity: similarities[i][j], weight };
      return pair(cell, (cell.similarity - low) / (high - low || 1), most, inspector, seek);
    });
    return el("tr", {}, el("th", { scope: "row" }, isolated(plain(word))), cells);
  });
  const table = el(
    "table",
    { class: "heat", role: "grid", "aria-describedby": "heat-legend", onkeydown: move },
    el("caption", { class: "hidden" }, "Similarity of words and frames, and its weight"),
    el("thead", {}, el("tr", {}, el("td", {}), headings)),
    el("tbody", {}, lines),
  );
  table.querySelector("tbody td")?.setAttribute("tabindex", "0");
  const legend = el(
    "p",
    { class: "legend", id: "heat-legend" },
    el("i", { class: "scale", "aria-hidden": "true" }),
    `Colour: similarity, ${number(low)} to ${number(high)}. `,
    el("i", { class: "dot", "aria-hidden": "true" }),
    "Dot: how much the pair counts. ",
    against ? "Ring: it counts against. " : "",
    NOTE,
  );
  return el(
    "section",
    { class: "words", "aria-label": "Words and frames" },
    el("h3", {}, "Words and frames"),
    el("div", { class: "wide" }, table),
    inspector.element,
    legend,
  );
}

function pair(cell, strength, most, inspector, seek) {
  const visible = Math.abs(cell.weight) >= VISIBLE;
  const dot = visible
    ? el("i", {
        class: cell.weight < 0 ? "minus" : "plus",
        css: { "--size": Math.sqrt(Math.abs(cell.weight) / most) },
      })
    : null;
  const text = `${number(cell.similarity)}, weight ${number(cell.weight)}`;
  const show = () => inspector.show(cell);
  return el(
    "td",
    {
      tabindex: -1,
      css: { "--s": strength.toFixed(3) },
      onpointerenter: show,
      onfocus: show,
      onclick: () => seek(cell.t),
    },
    dot,
    el("span", { class: "hidden" }, text),
  );
}

/** Returns the place that says what the cell under the pointer or in focus is. */
function inspect(row) {
  const image = el("img", { alt: "" });
  const line = el("p", {}, "Point at a cell, or move through them with the arrow keys.");
  image.hidden = true;
  return {
    element: el("div", { class: "inspector" }, image, line),
    show({ word, t, similarity, weight }) {
      image.src = framePath(row.id, t, THUMB);
      image.hidden = false;
      line.replaceChildren(
        el("b", {}, isolated(word)),
        ` at ${clock(t, true)}: `,
        el("span", {}, `similarity ${number(similarity, 3)}, weight ${number(weight, 3)}`),
      );
    },
  };
}

function move(event) {
  const cell = event.target.closest("tbody td");
  if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter") return cell.click();
  const rows = [...event.currentTarget.tBodies[0].rows];
  const [i, j] = [rows.indexOf(cell.parentNode), cell.cellIndex];
  const place = {
    ArrowUp: [i - 1, j],
    ArrowDown: [i + 1, j],
    ArrowLeft: [i, j - 1],
    ArrowRight: [i, j + 1],
    Home: [i, 1],
    End: [i, cell.parentNode.cells.length - 1],
  }[event.key];
  if (!place) return undefined;
  event.preventDefault();
  const next = place[1] > 0 ? rows[place[0]]?.cells[place[1]] : null;
  if (!next) return undefined;
  cell.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
  return undefined;
}
