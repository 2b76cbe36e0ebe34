// The preview of a video under the pointer or in focus: its sprite of frames, one after the other.

import { previewPath } from "./api.js";
import { el } from "./dom.js";

const FRAMES = 10; // side by side in a sprite
const STEP = 450; // milliseconds a frame is shown
const DELAY = 150; // before a preview is asked for: a pointer that passes by asks for none

const still = matchMedia("(prefers-reduced-motion: reduce)");
const sprites = new Map(); // id -> promise of an image

/**
 * Shows the preview in `box`, over the poster, while the pointer is on `target` or it has the
 * focus. Who prefers less motion steps through it by moving the pointer.
 */
export function preview(target, box, id) {
  let stop = null;
  const start = () => (stop ??= play(target, box, id));
  const end = () => {
    if (target.matches(":hover") || target.matches(":focus-visible")) return;
    stop?.();
    stop = null;
  };
  target.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && start());
  target.addEventListener("focus", () => target.matches(":focus-visible") && start());
  target.addEventListener("pointerleave", end);
  target.addEventListener("blur", end);
}

function play(target, box, id) {
  const canvas = el("canvas", { "aria-hidden": "true" });
  const bar = el("i", { class: "played", "aria-hidden": "true" });
  const stopping = new AbortController();
  let ticking = null;
  const waiting = setTimeout(async () => {
    const sprite = await load(id);
    if (!sprite || stopping.signal.aborted) return;
    const width = Math.floor(sprite.naturalWidth / FRAMES);
    canvas.width = width;
    canvas.height = sprite.naturalHeight;
    const show = (i) => {
      canvas.getContext("2d").drawImage(sprite, -i * width, 0);
      bar.style.width = `${(100 * (i + 1)) / FRAMES}%`;
    };
    let i = 0;
    show(i);
    box.append(canvas, bar);
    if (still.matches) {
      const move = (event) => {
        const { left, width: wide } = box.getBoundingClientRect();
        show(Math.max(0, Math.min(FRAMES - 1, Math.floor((FRAMES * (event.clientX - left)) / wide))));
      };
      target.addEventListener("pointermove", move, { signal: stopping.signal });
    } else {
      ticking = setInterval(() => show((i = (i + 1) % FRAMES)), STEP);
    }
  }, DELAY);
  return () => {
    stopping.abort();
    clearTimeout(waiting);
    clearInterval(ticking);
    canvas.remove();
    bar.remove();
  };
}

/** Returns the sprite, or null where there is none: then the poster just stays. */
function load(id) {
  if (!sprites.has(id)) {
    const image = new Image();
    image.src = previewPath(id);
    const loaded = image.decode().then(() => image);
    sprites.set(
      id,
      loaded.catch(() => {
        sprites.delete(id);
        return null;
      }),
    );
  }
  return sprites.get(id);
}
