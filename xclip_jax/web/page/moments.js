// The best moments of a video for a text, as bars on its time axis and as buttons that seek there.

import { get, momentsPath } from "./api.js";
import { el } from "./dom.js";
import { clock, number, span } from "./format.js";
import { failure } from "./notice.js";

const COUNT = 5;

/** Fills `place` with the moments of `row` for the text `ask`; `seek(t)` moves the player. */
export async function show(place, { row, ask, info, player, seek, signal }) {
  const title = el("h3", {}, "Best moments");
  place.replaceChildren(title, el("div", { class: "axis skeleton" }));
  try {
    const found = await get(momentsPath(row.id), { q: ask, k: COUNT }, { signal });
    const length = found.duration || Math.max(0, ...found.moments.map((moment) => moment.end));
    if (!found.moments.length || !(length > 0)) {
      place.replaceChildren(title, el("p", { class: "note" }, "No moment stands out."));
      return;
    }
    place.replaceChildren(title, ...bars(found.moments, length, player, seek));
  } catch (error) {
    if (error.name === "AbortError") return;
    const again = () => show(place, { row, ask, info, player, seek, signal });
    // An index without moment frames is no failure: its one line says how to get them.
    const told = error.status === 409;
    place.replaceChildren(title, told ? el("p", { class: "note" }, error.message) : failure(error, again));
  }
}

function bars(moments, length, player, seek) {
  const scores = moments.map((moment) => moment.score);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const lanes = pack(moments);
  const fine = moments.some((moment) => moment.end - moment.start < 2);
  const percent = (x) => `${(100 * Math.min(x, length)) / length}%`;
  const now = el("i", { class: "now" });
  const axis = el("div", { class: "axis", "aria-hidden": "true" }, now);
  axis.style.setProperty("--lanes", Math.max(...lanes) + 1);
  const buttons = moments.map((moment, i) => {
    const strength = high > low ? (moment.score - low) / (high - low) : 1;
    const bar = el("i", {
      class: "moment",
      css: {
        left: percent(moment.start),
        width: percent(moment.end - moment.start),
        "--lane": lanes[i],
        "--strength": 0.35 + 0.65 * strength,
      },
    });
    const text = span(moment.start, Math.min(moment.end, length), fine);
    const button = el(
      "button",
      { type: "button", class: "span", onclick: () => seek(moment.start) },
      text,
      el("span", { class: "points" }, el("span", { class: "hidden" }, ", score "), number(moment.score)),
    );
    bar.title = `${text}, score ${number(moment.score)}`;
    const light = (on) => () => [bar, button].forEach((part) => part.classList.toggle("lit", on));
    for (const part of [bar, button]) {
      part.addEventListener("pointerenter", light(true));
      part.addEventListener("pointerleave", light(false));
    }
    button.addEventListener("focus", light(true));
    button.addEventListener("blur", light(false));
    axis.append(bar);
    return el("li", {}, button);
  });
  axis.addEventListener("click", (event) => {
    const bar = event.target.closest(".moment");
    const at = [...axis.querySelectorAll(".moment")].indexOf(bar);
    const { left, width } = axis.getBoundingClientRect();
    seek(bar ? moments[at].start : Math.max(0, (length * (event.clientX - left)) / width));
  });
  player.onTime((t) => now.style.setProperty("left", percent(t)));
  const ends = el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, clock(0)));
  ends.append(el("span", {}, clock(length)));
  return [axis, ends, el("ol", { class: "spans" }, buttons)];
}

/** Returns for each moment the lowest lane in which it overlaps none that came before. */
function pack(moments) {
  const lanes = [];
  return moments.map(({ start, end }) => {
    let lane = 0;
    while (lanes[lane]?.some((other) => start < other.end && other.start < end)) lane++;
    (lanes[lane] ??= []).push({ start, end });
    return lane;
  });
}
