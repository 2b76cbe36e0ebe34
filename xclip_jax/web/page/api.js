// The server's JSON interface: requests that can be aborted, and errors with the server's own line.

const BUSY = new Set([429, 503]);
const TRIES = 3;
const LONGEST_WAIT = 8; // seconds

export class ApiError extends Error {
  /** @param {number} status of HTTP, 0 where there was no answer at all */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Returns the URL of a path with parameters, those that are null left out. */
export function url(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, x]) => x !== null && x !== undefined);
  const query = new URLSearchParams(given).toString();
  return query ? `${path}?${query}` : path;
}

/**
 * Returns the JSON of an answer. A server that is busy is asked again, after the time it gives;
 * `waiting(seconds)` is called then.
 */
export async function get(path, parameters = {}, { signal, waiting = () => {} } = {}) {
  for (let attempt = 1; ; attempt++) {
    const answer = await ask(url(path, parameters), { signal });
    if (BUSY.has(answer.status) && attempt < TRIES) {
      const wait = Math.min(Number(answer.headers.get("Retry-After")) || attempt, LONGEST_WAIT);
      waiting(wait);
      await pause(wait, signal);
      continue;
    }
    return said(answer.status, answer.text);
  }
}

/**
 * Tries a token and, where it is right, loads the page by it: the server then keeps it in a
 * cookie, which pictures and videos send too, and takes it out of the address.
 */
export async function signIn(token) {
  const headers = { Authorization: `Bearer ${token}` };
  const answer = await ask("api/index", { headers });
  said(answer.status, answer.text);
  const here = new URLSearchParams(location.search);
  here.set("token", token);
  location.replace(`./?${here}`);
}

/** Returns the value of an answer's text, or throws its error. */
export function said(status, text) {
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {} // an error page of something in between
  if (status >= 200 && status < 300 && value !== null) return value;
  throw new ApiError(status, value?.error ?? `The server answered ${status} and did not say why.`);
}

export const OFFLINE = "The server does not answer: is xclip-jax serve still running?";

async function ask(address, options) {
  try {
    const answer = await fetch(address, options);
    return { status: answer.status, headers: answer.headers, text: await answer.text() };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, OFFLINE);
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    });
  });
}

const video = (id) => `api/videos/${encodeURIComponent(id)}`;

export const rowPath = video;
export const likePath = (id) => `${video(id)}/like`;
export const momentsPath = (id) => `${video(id)}/moments`;
export const explainPath = (id) => `${video(id)}/explain`;
export const filePath = (id) => `${video(id)}/file`;
export const copyPath = (id) => `${video(id)}/play.mp4`;
export const previewPath = (id) => `${video(id)}/preview`;
export const framePath = (id, t, height) =>
  url(`${video(id)}/frame`, { t: t === null ? null : t.toFixed(2), height });
