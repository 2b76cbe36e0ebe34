// Light or dark: the system's choice unless the button chose another, kept in localStorage.
// Loaded before the first paint, so no page flashes white; hence no module.
"use strict";
{
  const KEY = "xclip-jax-theme";
  const LABELS = { system: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
  const ICONS = { system: "system", light: "sun", dark: "moon" };
  const NEXT = { system: "light", light: "dark", dark: "system" };

  let theme = "system";
  try {
    theme = localStorage.getItem(KEY) in NEXT ? localStorage.getItem(KEY) : theme;
  } catch {} // storage may be forbidden: then the choice lasts as long as the page

  const apply = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  apply();

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => {
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
      svg.setAttribute("aria-hidden", "true");
      use.setAttribute("href", `#icon-${ICONS[theme]}`);
      svg.append(use);
      button.replaceChildren(svg);
      button.title = LABELS[theme];
      button.setAttribute("aria-label", LABELS[theme]);
    };
    button.addEventListener("click", () => {
      theme = NEXT[theme];
      try {
        localStorage.setItem(KEY, theme);
      } catch {}
      apply();
      show();
    });
    show();
  });
}
