// The video itself; where the browser cannot play it, the server's copy in a format that it can;
// where there is none, the frame at any time of it.

import { copyPath, filePath, framePath } from "./api.js";
import { el } from "./dom.js";
import { clock } from "./format.js";

const HEIGHT = 480; // pixels of a frame shown in place of the video
const PAUSE = 120; // milliseconds that the slider rests before its frame is asked for
const COPY = "Browsers do not play this kind of file: this is a copy of it, without sound.";
const FRAMES = "This browser cannot play the video: here are its frames.";

/** Returns {element, seek(t, {play}), onTime(listener), stop()}, the same for all three. */
export function player(row) {
  const listeners = [];
  const told = (t) => listeners.forEach((listener) => listener(t));
  const element = el("div", { class: "stage" });
  const sources = [[copyPath(row.id), COPY]];
  if (row.playable) sources.unshift([filePath(row.id), null]);
  let part = null;
  const next = (t = 0) => {
    part?.stop();
    const [source, line] = sources.shift() ?? [null, FRAMES];
    part = source ? movie(row, source, told, next) : viewer(row, told);
    const note = line ? [el("p", { class: "note", role: "status" }, line)] : [];
    element.replaceChildren(...part.elements, ...note);
    if (t) part.seek(t);
  };
  next();
  return {
    element,
    seek: (t, options) => part.seek(t, options),
    onTime: (listener) => listeners.push(listener),
    stop: () => part.stop(),
  };
}

function movie(row, source, told, failed) {
  const node = el("video", {
    controls: true,
    playsinline: true,
    preload: "metadata",
    poster: framePath(row.id, null, HEIGHT),
    src: source,
  });
  let asked = 0;
  node.addEventListener("timeupdate", () => told(node.currentTime));
  node.addEventListener("seeking", () => told(node.currentTime));
  const fail = () => failed(node.currentTime || asked);
  node.addEventListener("error", fail);
  return {
    elements: [node],
    seek(t, { play = false } = {}) {
      asked = t;
      node.currentTime = t;
      told(t);
      if (play) node.play().catch(() => {}); // refused or interrupted: it stands at the time
    },
    stop() {
      node.removeEventListener("error", fail);
      node.pause();
      node.removeAttribute("src"); // ends the download
      node.load();
    },
  };
}

function viewer(row, told) {
  const image = el("img", { alt: "" });
  const slider = el("input", {
    type: "range",
    min: 0,
    max: Math.max(row.duration || 0, 0.1).toFixed(2),
    step: 0.1,
    value: 0,
    "aria-label": "Time",
  });
  const time = el("output", {});
  let waiting = null;
  const show = (t) => {
    clearTimeout(waiting);
    image.src = framePath(row.id, t, HEIGHT);
    image.alt = `The frame at ${clock(t, true)}`;
    write(t);
  };
  const write = (t) => {
    slider.value = t;
    slider.setAttribute("aria-valuetext", clock(t, true));
    time.textContent = clock(t, true);
    told(t);
  };
  image.addEventListener("error", () => (time.textContent = "no frame"));
  slider.addEventListener("input", () => {
    const t = Number(slider.value);
    write(t);
    clearTimeout(waiting);
    waiting = setTimeout(() => show(t), PAUSE);
  });
  queueMicrotask(() => image.src || show(0));
  return {
    elements: [el("div", { class: "still" }, image), el("div", { class: "slide" }, slider, time)],
    seek: (t) => show(Math.min(t, Number(slider.max))),
    stop: () => clearTimeout(waiting),
  };
}
