// Data, colors and small helpers that all parts of the page use. No text of the data ever becomes markup:
// it goes through textContent, or through `plain` where Plotly would read tags.
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const darkMedia = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)").matches;
const redraws = [];

// Okabe and Ito, told apart with any color vision; yellow is left out, since it is lost on white.
const PALETTES = {
  light: {
    groups: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b4a9b"],
    ink: "#1b2127", quiet: "#79848f", grid: "#e6e9ed", paper: "#ffffff", none: "#b9c0c8",
    scale: [[0, "#00224e"], [0.25, "#424f6e"], [0.5, "#7c7b78"], [0.75, "#bbaa6c"], [1, "#e8cf3f"]],
  },
  dark: {
    groups: ["#4aa8e8", "#f0803c", "#2fc79a", "#e39ac2", "#f5b83d", "#9ad4f5", "#a99be6"],
    ink: "#e7ebef", quiet: "#8c97a2", grid: "#2c343b", paper: "#14181c", none: "#57616b",
    scale: [[0, "#35618f"], [0.25, "#66748f"], [0.5, "#98948d"], [0.75, "#ccb96f"], [1, "#ffe94a"]],
  },
};
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "x"];
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif';

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : darkMedia.matches;
}

function palette() {
  return isDark() ? PALETTES.dark : PALETTES.light;
}

function colorOf(number) {
  const colors = palette();
  if (number === -1) return colors.ink;
  if (number === -2) return colors.quiet;
  return colors.groups[number % colors.groups.length];
}

function symbolOf(number) {
  return SYMBOLS[Math.floor(number / PALETTES.light.groups.length) % SYMBOLS.length];
}

function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function make(name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function drawing(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const SHAPES = {
  "circle": "M8 3.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 1 1 0-9z",
  "diamond": "M8 2.5L13.5 8L8 13.5L2.5 8z",
  "square": "M4 4h8v8H4z",
  "triangle-up": "M8 3L13.5 12.5H2.5z",
  "cross": "M6.2 3h3.6v3.2H13v3.6H9.8V13H6.2V9.8H3V6.2h3.2z",
  "x": "M4.5 3L8 6.4L11.5 3L13 4.5L9.6 8L13 11.5L11.5 13L8 9.6L4.5 13L3 11.5L6.4 8L3 4.5z",
};

function swatch(symbol, color) {
  const svg = drawing("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
  svg.append(drawing("path", { d: SHAPES[symbol], fill: color }));
  return svg;
}

const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };
const unpacked = new Map();

function unpack(packed) {
  if (!unpacked.has(packed)) {
    const text = atob(packed.bytes);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    unpacked.set(packed, new ARRAYS[packed.type](bytes.buffer));
  }
  return unpacked.get(packed);
}

function axisStyle(title) {
  const colors = palette();
  return {
    title: { text: plain(title), font: { size: 13, color: colors.quiet }, standoff: 8 },
    tickfont: { size: 12, color: colors.quiet }, gridcolor: colors.grid, linecolor: colors.grid,
    zeroline: false, automargin: true, fixedrange: true,
  };
}

function baseLayout() {
  return {
    margin: { l: 52, r: 14, t: 8, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: FONT, size: 13, color: palette().ink }, showlegend: false, hovermode: "closest",
  };
}

const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false, scrollZoom: false };

function startTheme() {
  const stored = (() => { try { return localStorage.getItem("nuclr-theme"); } catch { return null; } })();
  const radios = [...document.querySelectorAll('input[name="theme"]')];
  const apply = (value) => {
    if (value === "light" || value === "dark") root.dataset.theme = value;
    else delete root.dataset.theme;
    for (const redraw of redraws) redraw();
  };
  for (const radio of radios) {
    if (radio.value === stored) radio.checked = true;
    radio.addEventListener("change", () => {
      try { localStorage.setItem("nuclr-theme", radio.value); } catch { /* a page from disk may store nothing */ }
      apply(radio.value);
    });
  }
  const checked = radios.find((radio) => radio.checked);
  apply(checked ? checked.value : "auto");
  darkMedia.addEventListener("change", () => { for (const redraw of redraws) redraw(); });
}
