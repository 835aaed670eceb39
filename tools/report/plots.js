// The plots, drawn by Plotly. It reads a few tags and entities in texts, so that every name is escaped for it.

function plain(name, most = 60) {
  const line = [...String(name).replace(/\s+/g, " ")];
  const cut = line.length > most ? [...line.slice(0, most - 1), "…"] : line;
  return cut.join("").replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
const CONFIG = { displaylogo: false, displayModeBar: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
const FEW = 8;
const HUES = ["#3b82e0", "#d9622b", "#0f9d7a", "#a45fd1", "#c79a1b", "#d1487f", "#5a9bb0", "#8a7f5c"];

function axis(title, ink, more = {}) {
  return {
    title: { text: title, standoff: 8, font: { size: 12, color: ink.pale } }, gridcolor: ink.grid, linecolor: ink.line,
    zerolinecolor: ink.line, tickfont: { size: 11, color: ink.pale }, automargin: true, ...more,
  };
}

function draw(id, traces, layout) {
  const ink = colours();
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: FONT, size: 12, color: ink.ink },
    margin: { l: 48, r: 12, t: 30, b: 42 }, hovermode: "closest", showlegend: false, dragmode: "zoom",
    hoverlabel: { bgcolor: ink.panel, bordercolor: ink.line, font: { family: FONT, size: 12, color: ink.ink } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink.faint, activecolor: ink.accent },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12, color: ink.ink } },
  };
  // Measured here: of itself Plotly keeps the size of the first time, on paper too.
  const size = { width: byId(id).clientWidth, height: byId(id).clientHeight };
  return Plotly.react(byId(id), traces, { ...base, ...size, ...layout }, CONFIG);
}

function empty(id, text) {
  const ink = colours();
  const none = { visible: false, fixedrange: true };
  const note = { text: plain(text), showarrow: false, font: { size: 13, color: ink.pale }, x: 0.5, y: 0.5, xref: "paper", yref: "paper" };
  draw(id, [], { xaxis: none, yaxis: none, annotations: [note] });
}

// Curves

const curve = ([section, label, size, iou, recall, y]) => ({ section, label, size, iou, x: DATA.recalls[recall], y });
const average = (values) => values.reduce((sum, value) => sum + (value || 0), 0) / Math.max(1, values.length);
const titled = (text, ink) => ({ text, x: 0, xanchor: "left", xref: "paper", y: 0.99, yanchor: "top", font: { size: 13, color: ink.pale } });

function recallAxes(ink) {
  return {
    xaxis: axis("recall", ink, { range: [0, 1.005] }), yaxis: axis("precision", ink, { range: [0, 1.02] }),
    margin: { l: 48, r: 12, t: 56, b: 42 },
  };
}

function drawCurves(state) {
  if (!byId("curves")) return;
  const curves = DATA.curves.map(curve).filter((c) => c.section === state.section && c.size === state.size);
  drawOverlaps(curves.filter((c) => c.label === (state.class || DATA.all)), state);
  drawByClass(curves.filter((c) => c.iou === "0.50" && c.label !== DATA.all), state);
}

function drawOverlaps(curves, state) {
  if (!curves.length) return empty("plot-overlap", "No objects of this kind.");
  const ink = colours();
  const styles = { "0.50": [ink.accent, "solid"], "0.75": [ink.second, "solid"], "0.50:0.95": [ink.warm, "dot"] };
  // The mean is drawn last, dotted, so that what it covers can be seen.
  const order = Object.keys(styles);
  const traces = curves.sort((a, b) => order.indexOf(a.iou) - order.indexOf(b.iou)).map((c) => ({
    x: c.x, y: c.y, name: `IoU ${plain(c.iou)}: ${shown(average(c.y), 3, true)}`, mode: "lines",
    line: { color: (styles[c.iou] || [ink.pale])[0], dash: (styles[c.iou] || [])[1], width: 2.2 },
    hovertemplate: "recall %{x:.2f}, precision %{y:.3f}<extra></extra>",
  }));
  const title = titled(plain(state.class || DATA.all, 40), ink);
  draw("plot-overlap", traces, { ...recallAxes(ink), showlegend: true, title });
}

function drawByClass(curves, state) {
  if (!curves.length) return empty("plot-by-class", "No objects of this kind.");
  const ink = colours();
  const ranked = curves.map((c) => ({ ...c, area: average(c.y) })).sort((a, b) => b.area - a.area);
  const few = ranked.length <= FEW;
  // Of many classes the lowest and the highest have colours; what they are is legible without a pointer.
  const lit = few ? ranked : [...ranked.slice(0, 3), ...ranked.slice(-4)];
  const colourOf = (c, i) => (few ? HUES[i] : i < 3 ? HUES[[0, 2, 6][i]] : HUES[[4, 5, 3, 1][i - 3]]);
  const line = (c, color, width, opacity, showlegend) => ({
    x: c.x, y: c.y, mode: "lines", opacity, showlegend, line: { color, width }, name: `${plain(c.label, 22)} ${shown(c.area, 3, true)}`,
    text: plain(c.label), hovertemplate: "%{text}<br>recall %{x:.2f}, precision %{y:.3f}<extra></extra>",
  });
  const traces = state.class
    ? ranked.filter((c) => c.label !== state.class).map((c) => line(c, ink.faint, 1, 0.7, false))
    : few ? [] : ranked.filter((c) => !lit.includes(c)).map((c) => line(c, ink.faint, 1, 0.7, false));
  if (state.class) traces.push(...ranked.filter((c) => c.label === state.class).map((c) => line(c, ink.accent, 3, 1, true)));
  else traces.push(...lit.map((c, i) => line(c, colourOf(c, i), 2, 1, true)));
  const what = state.class || few ? "classes, IoU 0.50" : `${ranked.length} classes, IoU 0.50; named: the three highest and the four lowest`;
  const legend = { orientation: "v", x: 1.01, y: 1, xanchor: "left", yanchor: "top", font: { size: 11, color: ink.ink } };
  const wide = byId("plot-by-class").clientWidth > 520;
  const layout = recallAxes(ink);
  if (wide) Object.assign(layout, { legend, margin: { ...layout.margin, r: 12 } });
  else layout.margin.t = state.class ? 56 : 110;
  draw("plot-by-class", traces, { ...layout, showlegend: true, title: titled(what, ink) });
}

// Bars

function drawBars(table, column, state) {
  const ink = colours();
  const place = table.columns.indexOf(column);
  const rows = table.rows.filter((row) => row[place] !== null).sort((a, b) => b[place] - a[place]);
  const plot = byId("plot-bars");
  const printed = document.body.classList.contains("printed");
  const upright = plot.clientWidth / Math.max(1, rows.length) >= (printed ? 8 : 13);
  const longest = Math.min(24, Math.max(...rows.map((row) => row[0].length), 0));
  const turned = (plot.clientWidth - 60) / Math.max(1, rows.length) < 6.6 * longest;
  plot.style.height = `${upright ? 290 + (turned ? Math.round(5.6 * longest) : 20) : Math.max(160, 60 + 17 * rows.length)}px`;
  if (!rows.length) return empty("plot-bars", "No objects of this kind.");
  const index = rows.map((_, i) => i);
  const names = rows.map((row) => plain(row[0], 24));
  const values = rows.map((row) => row[place]);
  const texts = values.map((value) => value.toFixed(rows.length > 24 ? 2 : 3));
  const bars = {
    type: "bar", orientation: upright ? "v" : "h", x: upright ? index : values, y: upright ? values : index,
    marker: { color: rows.map((row) => (state.class ? (row[0] === state.class ? ink.accent : ink.faint) : ink.bar)) },
    width: upright ? Math.min(0.76, (rows.length * 90) / plot.clientWidth) : 0.76,
    text: upright && plot.clientWidth / rows.length < 24 ? undefined : texts, textposition: "outside", cliponaxis: false,
    textfont: { size: 11, color: ink.pale }, customdata: rows.map((row) => plain(row[0])),
    hovertemplate: `%{customdata}<br>${plain(column)} %{${upright ? "y" : "x"}:.3f}<extra></extra>`,
  };
  const ticks = { tickmode: "array", tickvals: index, ticktext: names, showgrid: false, zeroline: false, range: [-0.6, rows.length - 0.4] };
  const scale = { range: [0, Math.min(1, Math.max(...values) * 1.15) || 1], rangemode: "tozero" };
  const layout = upright
    ? { xaxis: axis("", ink, { ...ticks, ...(turned ? { tickangle: -60 } : {}) }), yaxis: axis(plain(column), ink, scale), margin: { l: 48, r: 8, t: 24, b: 40 } }
    : { yaxis: axis("", ink, { ...ticks, range: [rows.length - 0.4, -0.6] }), xaxis: axis(plain(column), ink, scale), margin: { l: 80, r: 36, t: 24, b: 40 } };
  return draw("plot-bars", [bars], layout);
}

// Errors

function drawErrors(state) {
  if (!byId("errors")) return;
  const found = DATA.errors.find((errors) => errors.section === state.section);
  const list = byId("meanings");
  list.replaceChildren();
  byId("plot-errors").style.height = `${found ? 70 + 34 * found.names.length : 160}px`;
  if (!found) return empty("plot-errors", "Not counted for these.");
  found.names.forEach((name, i) => {
    const row = element("div");
    row.append(element("dt", name, { class: "name" }), element("dd", shown(found.values[i], 2, true), { class: "number" }), element("dd", found.meanings[i], { class: "pale" }));
    list.append(row);
  });
  const ink = colours();
  const index = found.names.map((_, i) => i);
  const bars = {
    type: "bar", orientation: "h", x: found.values, y: index, width: 0.66, marker: { color: ink.bar }, text: found.values.map((value) => shown(value, 2, true)),
    textposition: "outside", cliponaxis: false, textfont: { size: 12, color: ink.ink }, hoverinfo: "skip",
  };
  draw("plot-errors", [bars], {
    yaxis: axis("", ink, { tickmode: "array", tickvals: index, ticktext: found.names.map((name) => plain(name, 24)), range: [index.length - 0.4, -0.6], showgrid: false, zeroline: false, tickfont: { size: 13, color: ink.ink }, fixedrange: true }),
    xaxis: axis("points of AP50 to be had without them", ink, { rangemode: "tozero", range: [0, Math.max(1, ...found.values) * 1.14], fixedrange: true }),
    margin: { l: 80, r: 30, t: 10, b: 46 },
  });
}
