// The page's state is its URL: what is looked for, in which videos, and which one is open.
//   q     a text            like  a video's id         clip  the name of an uploaded clip
//   where a filter          k     how many results
//   v     the open video    ask   its own text, where another than q         t  seconds

const NAMES = ["q", "like", "clip", "where", "k", "v", "ask", "t"];
const listeners = [];

/** Returns the state, null for what the URL does not say. */
export function read() {
  const given = new URLSearchParams(location.search);
  const state = Object.fromEntries(NAMES.map((name) => [name, given.get(name) || null]));
  // A clip itself cannot lie in a URL: the entry in the history names it.
  return { ...state, upload: history.state?.upload ?? null };
}

/** Returns the relative URL of the state with some of it changed. */
export function href(change) {
  const state = { ...read(), ...change };
  const said = new URLSearchParams();
  for (const name of NAMES) if (state[name] !== null) said.set(name, state[name]);
  const text = said.toString();
  return text ? `?${text}` : "./";
}

/** Goes to the state with some of it changed, as a new entry in the history or in place. */
export function go(change, { replace = false, quiet = false } = {}) {
  const upload = "upload" in change ? change.upload : (history.state?.upload ?? null);
  const depth = (history.state?.depth ?? 0) + (replace ? 0 : 1);
  history[replace ? "replaceState" : "pushState"]({ upload, depth }, "", href(change));
  if (!quiet) tell();
}

/** Leaves the open video: back to where it was opened from, or to the results where it was a link. */
export function leave() {
  if (history.state?.depth) history.back();
  else go({ v: null, ask: null, t: null }, { replace: true });
}

export function onChange(listener) {
  listeners.push(listener);
}

export function tell() {
  for (const listener of listeners) listener(read());
}

addEventListener("popstate", tell);

/** What the search box, "like this" and clips clear of each other and of the video that was open. */
export const FRESH = {
  q: null,
  like: null,
  clip: null,
  upload: null,
  k: null,
  v: null,
  ask: null,
  t: null,
};
