// All plots but the map: lines, points and bands out of data.charts, drawn when they come into sight.
function chartTraces(spec) {
  const traces = [];
  for (const line of spec.lines) {
    if (line.low) {
      traces.push({
        x: [...line.x, ...[...line.x].reverse()], y: [...line.high, ...[...line.low].reverse()], type: "scatter",
        mode: "lines", fill: "toself", fillcolor: colorOf(line.color), opacity: 0.16, line: { width: 0 }, hoverinfo: "skip",
      });
    }
  }
  for (const line of spec.lines) {
    traces.push({
      x: line.x, y: line.y, type: "scatter", mode: line.mode, name: plain(line.name), opacity: line.opacity,
      line: { color: colorOf(line.color), width: line.width, dash: line.dash },
      marker: { color: colorOf(line.color), size: 7, symbol: SYMBOLS[line.symbol % SYMBOLS.length] },
      hovertemplate: `${line.name ? plain(line.name) + "<br>" : ""}%{x:.4~g}, %{y:.4~g}<extra></extra>`,
    });
  }
  return traces;
}

function spacedTicks(axis, log) {
  // Labels that would lie on each other are left out, the ends stay.
  const place = axis.ticks.map((at) => (log ? Math.log10(at) : at));
  const span = place[place.length - 1] - place[0] || 1;
  const kept = [];
  for (let i = 0; i < place.length; i++) {
    const last = i === place.length - 1;
    if (last && kept.length > 1 && (place[i] - place[kept[kept.length - 1]]) / span < 0.09) kept.pop();
    if (last || !kept.length || (place[i] - place[kept[kept.length - 1]]) / span >= 0.09) kept.push(i);
  }
  return kept.map((i) => axis.ticks[i]);
}

function chartAxis(axis) {
  const style = axisStyle(axis.title);
  if (axis.log) {
    style.type = "log";
    style.dtick = axis.ticks ? undefined : 1;
  }
  if (axis.bounds) style.range = axis.log ? axis.bounds.map(Math.log10) : axis.bounds;
  if (axis.ticks && axis.ticks.length) {
    style.tickvals = spacedTicks(axis, axis.log);
    style.ticktext = style.tickvals.map((at) => Number(at.toPrecision(3)).toLocaleString("en"));
  }
  return style;
}

function lineSample(line) {
  const svg = drawing("svg", { viewBox: "0 0 26 14", "aria-hidden": "true" });
  const dash = { dash: "5 3", dot: "2 2.5", dashdot: "6 2 2 2", longdash: "8 3", longdashdot: "9 2 2 2" }[line.dash];
  const color = colorOf(line.color);
  if (line.mode !== "markers") {
    const stroke = { x1: 1, x2: 25, y1: 7, y2: 7, stroke: color, "stroke-width": Math.min(line.width, 2.5), opacity: line.opacity };
    if (dash) stroke["stroke-dasharray"] = dash;
    svg.append(drawing("line", stroke));
  }
  if (line.mode !== "lines") {
    svg.append(drawing("path", {
      d: SHAPES[SYMBOLS[line.symbol % SYMBOLS.length]], fill: color, transform: "translate(5 -1)", opacity: line.opacity,
    }));
  }
  return svg;
}

function chartLegend(element, spec) {
  const named = spec.lines.filter((line) => line.name);
  const old = element.nextElementSibling;
  if (old && old.classList.contains("legend")) old.remove();
  if (named.length < 2) return;
  const list = make("ul", null, { class: "legend" });
  for (const line of named) {
    const item = make("li");
    item.append(lineSample(line), make("span", line.name));
    list.append(item);
  }
  element.after(list);
}

function drawChart(element) {
  const spec = data.charts[element.dataset.chart];
  const layout = { ...baseLayout(), xaxis: chartAxis(spec.x), yaxis: chartAxis(spec.y), dragmode: false };
  chartLegend(element, spec);
  return Plotly.react(element, chartTraces(spec), layout, CONFIG).then(() => { element.dataset.drawn = "yes"; });
}

function startCharts() {
  const places = [...document.querySelectorAll("[data-chart]")].filter((place) => data.charts[place.dataset.chart]);
  const seen = new Set();
  const show = (place) => { if (!seen.has(place)) { seen.add(place); drawChart(place); } };
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { observer.unobserve(entry.target); show(entry.target); }
    }
  }, { rootMargin: "400px" });
  for (const place of places) observer.observe(place);
  redraws.push(() => { for (const place of seen) drawChart(place); });
  addEventListener("beforeprint", () => { for (const place of places) show(place); });
}
