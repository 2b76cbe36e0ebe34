// Making elements. Text goes in as text nodes and attributes as attributes: nothing that comes
// from the server is ever read as HTML.

/**
 * Returns an element.
 * @param {string} tag
 * @param {object} properties attributes; `onclick` and its like are listeners, `css` an object of
 *   CSS properties (set one by one: a style attribute would be refused by the page's policy).
 *   null, undefined and false are left out.
 * @param {...(Node|string|null|Array)} children
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "css") {
      for (const [key, set] of Object.entries(value)) node.style.setProperty(key, set);
    } else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Returns one of the drawings in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Returns a text of unknown direction that cannot turn the text around it. */
export function isolated(text, properties = {}) {
  return el("bdi", properties, text);
}

export const byId = (id) => document.getElementById(id);
