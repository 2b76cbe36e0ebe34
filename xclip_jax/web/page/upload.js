// Search by a clip of one's own: the button, a drop anywhere on the page, progress and cancel.

import { FRESH, go } from "./address.js";
import { ApiError, OFFLINE, said, url } from "./api.js";
import { byId, el } from "./dom.js";
import { bytes } from "./format.js";

const clips = new Map(); // what an entry of the history names -> the file; gone with the page

/** Returns the file of an entry of the history, undefined after a reload of the page. */
export const clip = (upload) => clips.get(upload);

/** Looks for videos like a file. */
export function searchBy(file) {
  const upload = crypto.getRandomValues(new Uint32Array(1))[0];
  clips.set(upload, file);
  go({ ...FRESH, clip: file.name, upload });
}

/** Makes the button and the page take clips. */
export function listen() {
  const input = byId("file");
  byId("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) searchBy(input.files[0]);
    input.value = ""; // the same file may be chosen again
  });

  const cover = byId("drop");
  const files = (event) => event.dataTransfer?.types.includes("Files");
  let inside = 0; // entered elements: leaving one for its child is no leaving of the page
  const count = (change) => {
    inside = Math.max(0, change === null ? 0 : inside + change);
    cover.hidden = inside === 0;
  };
  addEventListener("dragenter", (event) => files(event) && count(1));
  addEventListener("dragleave", (event) => files(event) && count(-1));
  addEventListener("dragover", (event) => files(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    count(null);
    if (event.dataTransfer.files.length) searchBy(event.dataTransfer.files[0]);
  });
}

/** Returns a bar of progress: `show(part)` from 0 to 1, then `show(null)` while the server works. */
export function progress(file, cancel) {
  const bar = el("progress", { max: 1, value: 0, "aria-label": "Upload" });
  const line = el("p", { role: "status" });
  const show = (part) => {
    if (part === null) bar.removeAttribute("value");
    else bar.value = part;
    line.textContent = part === null ? "Looking at the clip …" : `Sending ${bytes(file.size)} …`;
  };
  show(0);
  const button = el("button", { type: "button", class: "quiet", onclick: cancel }, "Cancel");
  return { element: el("div", { class: "notice progress" }, line, bar, button), show };
}

/** Sends a clip and returns the answer; fetch tells nothing of how far an upload is, XHR does. */
export function send(file, parameters, { signal, limit, show }) {
  if (limit && file.size > limit) {
    const text = `The clip has ${bytes(file.size)}, this server takes ${bytes(limit)}: cut it.`;
    return Promise.reject(new ApiError(413, text));
  }
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const body = new FormData();
    body.append("video", file, file.name);
    request.upload.onprogress = (event) =>
      event.lengthComputable && show(event.loaded < event.total ? event.loaded / event.total : null);
    request.upload.onload = () => show(null);
    request.onerror = () => reject(new ApiError(0, OFFLINE));
    request.onabort = () => reject(new DOMException("aborted", "AbortError"));
    request.onload = () => {
      try {
        resolve(said(request.status, request.responseText));
      } catch (error) {
        reject(error);
      }
    };
    signal.addEventListener("abort", () => request.abort());
    request.open("POST", url("api/search/video", parameters));
    request.send(body);
  });
}
