// The map of the units: one trace a group, the rarer on top; what a unit is stands in columns, read when asked for.
const MOST_GROUPS = 24;
const GL_FROM = 3000; // below it, SVG is sharper and needs no graphics hardware
const units = data.units;
const seenRows = [];
const state = { color: null, map: units.maps[0], hidden: new Set(), groups: [], rows: [], picked: -1 };
const place = { map: document.getElementById("map"), legend: document.getElementById("map-legend") };

function levelOf(column, row) {
  return column.levels[unpack(column.codes)[row]];
}

function probabilityOf(column, row) {
  if (!column.probability) return null;
  const code = unpack(column.probability)[row];
  return code === 65535 ? null : code / 10000;
}

function numberText(column, row) {
  const value = unpack(column.values)[row];
  return Number.isFinite(value) ? `${Number(value.toPrecision(4))}${column.unit ? " " + column.unit : ""}` : "";
}

function keyOf(row) {
  return units.categories.slice(0, 4).map((column) => levelOf(column, row));
}

function unitName(row) {
  const [subject, session, population, unit] = keyOf(row);
  return `unit ${unit}, ${subject}, ${session}${population && population !== "0" ? ", " + population : ""}`;
}

// What is known of a unit, as [name, text]; the name of the unit itself is not in it.
function factsOf(row) {
  const [subject, session, population] = keyOf(row);
  const facts = [["subject", subject], ["session", session]];
  if (population && population !== "0") facts.push(["population", population]);
  for (const column of units.numbers) facts.push([column.title, numberText(column, row)]);
  for (const column of units.categories.slice(4)) {
    if (column.title === "modality" && column.levels.length < 2) continue;
    const probability = probabilityOf(column, row);
    const text = levelOf(column, row);
    facts.push([column.title, text && probability !== null ? `${text} (p = ${probability.toFixed(2)})` : text]);
  }
  return facts.filter(([, text]) => text !== "");
}

function groupsOf(column) {
  const codes = unpack(column.codes);
  const counts = new Array(column.levels.length).fill(0);
  for (const row of seenRows) counts[codes[row]]++;
  const none = column.levels.indexOf("");
  const named = column.levels.map((_, code) => code).filter((code) => code !== none && counts[code]);
  named.sort((a, b) => counts[b] - counts[a] || (column.levels[a] < column.levels[b] ? -1 : 1));
  const kept = named.length > MOST_GROUPS ? named.slice(0, MOST_GROUPS - 1) : named;
  const rest = named.slice(kept.length);
  const groups = kept.map((code, i) => ({ name: column.levels[code], codes: new Set([code]), color: i, symbol: symbolOf(i) }));
  if (rest.length) groups.push({ name: `${rest.length} others`, codes: new Set(rest), color: -2, symbol: "circle" });
  if (none >= 0 && counts[none]) {
    groups.push({ name: column.role === "prediction" ? "no prediction" : "no label", codes: new Set([none]), color: null, symbol: "circle" });
  }
  for (const group of groups) group.rows = [];
  const groupOf = new Array(column.levels.length);
  for (const group of groups) for (const code of group.codes) groupOf[code] = group;
  for (const row of seenRows) groupOf[codes[row]].rows.push(row);
  return groups;
}

function hasWebGL() {
  try {
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("webgl2") || canvas.getContext("webgl");
    return Boolean(context);
  } catch {
    return false;
  }
}
let gl = null;

function traceOf(rows, marker) {
  if (gl === null) gl = seenRows.length > GL_FROM && hasWebGL();
  const x = unpack(state.map.x);
  const y = unpack(state.map.y);
  const size = Math.max(2.5, Math.min(8, 260 / Math.sqrt(seenRows.length)));
  return {
    x: Float32Array.from(rows, (row) => x[row]), y: Float32Array.from(rows, (row) => y[row]),
    type: gl ? "scattergl" : "scatter", mode: "markers", hoverinfo: "none",
    marker: { size, opacity: seenRows.length > 20000 ? 0.6 : 0.8, line: { width: 0 }, ...marker },
  };
}

function mapTraces() {
  const column = state.color;
  if (column.values) {
    const values = unpack(column.values);
    const turn = (value) => (column.log ? Math.log10(value) : value);
    const rows = seenRows.filter((row) => Number.isFinite(values[row]));
    const none = seenRows.filter((row) => !Number.isFinite(values[row]));
    const [low, high] = column.bounds.map(turn);
    state.rows = [none, rows];
    return [
      traceOf(none, { color: palette().none }),
      traceOf(rows, { color: Array.from(rows, (row) => turn(values[row])), colorscale: palette().scale, cmin: low, cmax: high }),
    ];
  }
  // From below: units without a label, the largest group, ..., the smallest.
  const shown = state.groups.filter((group) => !state.hidden.has(group.name));
  const order = [...shown].sort((a, b) => (a.color === null ? -1 : b.color === null ? 1 : b.rows.length - a.rows.length));
  state.rows = order.map((group) => group.rows);
  return order.map((group) => traceOf(group.rows, {
    color: group.color === null ? palette().none : colorOf(group.color), symbol: group.symbol,
  }));
}

function pickedTrace() {
  const rows = state.picked >= 0 ? [state.picked] : [];
  const trace = traceOf(rows, { color: "rgba(0,0,0,0)", size: 18, opacity: 1, symbol: "circle-open" });
  return { ...trace, type: "scatter", hoverinfo: "skip", marker: { ...trace.marker, color: palette().ink, line: { width: 2.5, color: palette().ink } } };
}

function drawMap() {
  const axes = [state.map.xTitle, state.map.yTitle].map((title) => ({
    ...axisStyle(title), fixedrange: false, showticklabels: false, ticks: "", showgrid: true, nticks: 8,
  }));
  const layout = {
    ...baseLayout(), margin: { l: 30, r: 8, t: 6, b: 34 }, xaxis: axes[0], yaxis: axes[1],
    dragmode: coarse ? false : "zoom", uirevision: state.map.name, hoverdistance: 12,
  };
  return Plotly.react(place.map, [...mapTraces(), pickedTrace()], layout, { ...CONFIG, doubleClick: "reset" }).then(() => {
    place.map.dataset.drawn = String(Number(place.map.dataset.drawn || 0) + 1);
    place.map.dataset.color = state.color.title;
  });
}

function drawLegend() {
  place.legend.replaceChildren();
  const column = state.color;
  if (column.values) {
    const box = make("div", null, { class: "scale" });
    const stops = palette().scale.map(([at, color]) => `${color} ${at * 100}%`).join(", ");
    box.append(make("span", column.unit ? `${column.title} (${column.unit}${column.log ? ", log" : ""})` : column.title));
    const bar = make("i");
    bar.style.background = `linear-gradient(to right, ${stops})`;
    const ends = make("div");
    ends.append(make("span", `≤ ${Number(column.bounds[0].toPrecision(3))}`), make("span", `≥ ${Number(column.bounds[1].toPrecision(3))}`));
    box.append(bar, ends);
    place.legend.append(box);
    return;
  }
  for (const group of state.groups) {
    const shown = !state.hidden.has(group.name);
    const button = make("button", null, { type: "button", "aria-pressed": String(shown) });
    const color = group.color === null ? palette().none : colorOf(group.color);
    const mark = make("span");
    mark.append(swatch(group.symbol, color));
    button.append(mark, make("span", group.name), make("span", group.rows.length.toLocaleString("en")));
    button.addEventListener("click", () => {
      if (!state.hidden.delete(group.name)) state.hidden.add(group.name);
      button.setAttribute("aria-pressed", String(!state.hidden.has(group.name)));
      drawMap();
    });
    place.legend.append(button);
  }
}

function chooseColor(column) {
  state.color = column;
  state.hidden.clear();
  state.groups = column.values ? [] : groupsOf(column);
  drawLegend();
  return drawMap();
}

function fillTooltip(row) {
  const box = document.getElementById("tooltip");
  box.replaceChildren(make("b", `unit ${keyOf(row)[3]}`));
  for (const [name, text] of factsOf(row)) {
    const line = make("div");
    line.append(make("span", name), make("span", text));
    box.append(line);
  }
  return box;
}

function startTooltip() {
  const box = document.getElementById("tooltip");
  place.map.on("plotly_hover", (event) => {
    const point = event.points[0];
    const rows = state.rows[point.curveNumber];
    if (!rows) return;
    fillTooltip(rows[point.pointNumber]);
    box.hidden = false;
    const { clientX, clientY } = event.event;
    const left = clientX + 16 + box.offsetWidth > innerWidth ? clientX - 16 - box.offsetWidth : clientX + 16;
    box.style.left = `${Math.max(4, left)}px`;
    box.style.top = `${Math.max(4, Math.min(clientY + 12, innerHeight - box.offsetHeight - 4))}px`;
  });
  place.map.on("plotly_unhover", () => { box.hidden = true; });
  place.map.on("plotly_click", (event) => {
    const rows = state.rows[event.points[0].curveNumber];
    if (rows) pick(rows[event.points[0].pointNumber]);
  });
  addEventListener("scroll", () => {
    if (box.hidden) return;
    box.hidden = true;
    Plotly.Fx.unhover(place.map); // or the same point would not be announced again
  }, { passive: true });
}

function pick(row) {
  state.picked = row;
  const said = document.getElementById("map-said");
  said.replaceChildren(make("b", `unit ${keyOf(row)[3]}`));
  const facts = factsOf(row).map(([name, text]) => `${name} ${text}`).join("; ");
  const away = Number.isFinite(unpack(state.map.x)[row]) ? "" : "; it has no embedding and is not on the map";
  said.append(`: ${facts}${away}`);
  drawMap();
}

function startFind() {
  const input = document.getElementById("map-find");
  const found = document.getElementById("map-found");
  const search = () => {
    found.replaceChildren();
    const wanted = input.value.trim().toLowerCase().split(/[\s,]+/).filter(Boolean);
    if (!wanted.length) { state.picked = -1; document.getElementById("map-said").replaceChildren(); drawMap(); return []; }
    const hits = [];
    for (let row = 0; row < units.n && hits.length < 12; row++) {
      const name = unitName(row).toLowerCase();
      const exact = keyOf(row)[3].toLowerCase();
      if (wanted.length === 1 ? exact === wanted[0] || name.includes(wanted[0]) : wanted.every((part) => name.includes(part))) hits.push(row);
    }
    for (const row of hits) {
      const button = make("button", unitName(row), { type: "button" });
      button.addEventListener("click", () => pick(row));
      found.append(button);
    }
    if (!hits.length) document.getElementById("map-said").replaceChildren("No unit of that name.");
    return hits;
  };
  let timer = 0;
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 200); });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    clearTimeout(timer);
    const hits = search();
    if (hits.length) pick(hits[0]);
  });
}

function zoom(factor) {
  const layout = place.map._fullLayout;
  const change = {};
  for (const name of ["xaxis", "yaxis"]) {
    const [low, high] = layout[name].range;
    const [middle, half] = [(low + high) / 2, (high - low) / 2 * factor];
    change[`${name}.range`] = [middle - half, middle + half];
  }
  return Plotly.relayout(place.map, change);
}

function startMap() {
  const x = unpack(units.maps[0].x);
  for (let row = 0; row < units.n; row++) if (Number.isFinite(x[row])) seenRows.push(row);
  const colors = document.getElementById("map-color");
  const roles = { label: "Labels", prediction: "Predictions", key: "Recordings", number: "Numbers" };
  const offered = [
    ...units.categories.filter((column) => column.role === "label"),
    ...units.categories.filter((column) => column.role === "prediction"),
    ...units.categories.filter((column) => column.role === "key" && column.title !== "unit"),
    ...units.numbers,
  ].filter((column) => column.values || column.role !== "key" || column.title === "subject" || column.levels.length > 1);
  for (const [role, title] of Object.entries(roles)) {
    const group = make("optgroup", null, { label: title });
    offered.forEach((column, i) => {
      if ((column.role || "number") === role) group.append(make("option", column.title, { value: i }));
    });
    if (group.children.length) colors.append(group);
  }
  const start = data.color ? offered.findIndex((column) => column.title === data.color) : 0;
  colors.value = String(Math.max(start, 0));
  colors.addEventListener("change", () => chooseColor(offered[Number(colors.value)]));
  const kinds = document.getElementById("map-kind");
  units.maps.forEach((map, i) => kinds.append(make("option", map.title, { value: i })));
  kinds.disabled = units.maps.length < 2;
  kinds.addEventListener("change", () => { state.map = units.maps[Number(kinds.value)]; drawMap(); });
  document.getElementById("map-in").addEventListener("click", () => zoom(0.6));
  document.getElementById("map-out").addEventListener("click", () => zoom(1 / 0.6));
  document.getElementById("map-reset").addEventListener("click", () => Plotly.relayout(place.map, { "xaxis.autorange": true, "yaxis.autorange": true }));
  document.getElementById("map-save").addEventListener("click", () => Plotly.downloadImage(place.map, { format: "png", scale: 2, filename: `map-${state.map.name}` }));
  startFind();
  redraws.push(() => { drawLegend(); drawMap(); });
  return chooseColor(offered[Math.max(start, 0)]).then(startTooltip);
}
