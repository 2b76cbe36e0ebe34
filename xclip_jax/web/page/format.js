// How numbers, times and names of files are written.

/** Returns 0:07, 12:30 or 1:02:03; with a tenth where `fine`. */
export function clock(seconds, fine = false) {
  const tenths = Math.round(Math.max(seconds, 0) * 10);
  const whole = Math.floor(tenths / 10);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (x) => String(x).padStart(2, "0");
  return (h ? `${h}:${two(m)}` : `${m}`) + `:${two(s)}` + (fine ? `.${tenths % 10}` : "");
}

/** Returns the span of a moment, with tenths where `fine`. */
export function span(start, end, fine) {
  return `${clock(start, fine)}–${clock(end, fine)}`;
}

export const number = (x, digits = 2) =>
  x.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
export const signed = (x) => (x < 0 ? "" : "+") + number(x);
export const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

export function bytes(n) {
  const power = Math.min(Math.floor(Math.log2(Math.max(n, 1)) / 10), 3);
  return `${number(n / 1024 ** power, power > 1 ? 1 : 0)} ${["bytes", "KB", "MB", "GB"][power]}`;
}

/**
 * Returns a text of others made safe to read: characters that turn the order of those after them
 * (exe.mp4 shown as 4pm.exe) and control characters become �.
 */
export function plain(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

/** Returns a value of metadata as a text, whatever JSON it is. */
export function value(x) {
  return plain(typeof x === "object" ? JSON.stringify(x) : x);
}

/** Returns a text cut to a length that fits a title. */
export const cut = (text, most = 80) =>
  text.length > most ? `${text.slice(0, most - 1)}…` : text;
