// The confusion matrix: rows are true, columns were found.

const shares = () => DATA.confusion.counts.map((row) => {
  const total = row.reduce((sum, count) => sum + count, 0);
  return row.map((count) => (total && count ? count / total : null));
});

// A colour between two of the form #rrggbb, opaque, so that Plotly can choose the ink of the numbers on it.
function mixed(from, to, share) {
  const parts = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  const [a, b] = [parts(from), parts(to)];
  return `rgb(${a.map((value, i) => Math.round(value + share * (b[i] - value))).join(", ")})`;
}

function ticksOf(names, from, to, pixels, ink) {
  const visible = Math.max(1, Math.abs(to - from));
  const step = Math.max(1, Math.ceil((9 * visible) / pixels));
  const index = names.map((_, i) => i).filter((i) => i % step === 0);
  const size = Math.max(7, Math.min(12, (0.8 * pixels) / visible));
  return { tickmode: "array", tickvals: index, ticktext: index.map((i) => plain(names[i], 20)), tickfont: { size, color: ink.ink } };
}

function drawConfusion() {
  if (!byId("confusion")) return;
  const { rows, columns, counts } = DATA.confusion;
  const plot = byId("plot-confusion");
  const ink = colours();
  plot.parentElement.style.setProperty("--side", `${Math.max(380, Math.min(940, 150 + 52 * rows.length))}px`);
  const side = plot.clientWidth;
  plot.style.height = `${side}px`;
  const ranges = { x: [-0.5, columns.length - 0.5], y: [rows.length - 0.5, -0.5] };
  const part = shares();
  const few = columns.length <= 20 && side / columns.length > 38;
  // Hits and mistakes have colours of their own, and the root of the share, so that one percent can still be seen.
  const heat = (keep, color) => ({
    type: "heatmap", xgap: few ? 2 : 0.5, ygap: few ? 2 : 0.5, zmin: 0, zmax: 1, showscale: false, hoverongaps: false,
    z: part.map((row, i) => row.map((share, j) => (share !== null && (rows[i] === columns[j]) === keep ? Math.sqrt(share) : null))),
    colorscale: [[0, mixed(ink.ground, color, 0.08)], [1, color]],
    text: few ? part.map((row, i) => row.map((share, j) => (!share || share < 0.005 || (rows[i] === columns[j]) !== keep ? "" : (100 * share).toFixed(0)))) : undefined,
    texttemplate: few ? "%{text}" : undefined, textfont: { size: 12 },
    customdata: part.map((row, i) => row.map((share, j) => `${plain(rows[i])} found as ${plain(columns[j])}<br>${counts[i][j]} times, ${(100 * (share || 0)).toFixed(1)} %`)),
    hovertemplate: "%{customdata}<extra></extra>",
  });
  const ticks = (axes) => ({
    x: ticksOf(columns, ...axes.x, side * 0.8, ink), y: ticksOf(rows, ...axes.y, side * 0.8, ink),
  });
  const both = { showgrid: false, zeroline: false, constrain: "domain" };
  const { x, y } = ticks(ranges);
  draw("plot-confusion", [heat(true, ink.accent), heat(false, ink.warm)], {
    xaxis: axis("found (share of the row, %)", ink, { ...both, ...x, range: ranges.x, tickangle: columns.length > 6 ? -60 : "auto" }),
    yaxis: axis("true", ink, { ...both, ...y, range: ranges.y }), margin: { l: 60, r: 10, t: 24, b: 60 },
  }).then(() => {
    // After a zoom there is room for more of the names.
    plot.removeAllListeners("plotly_relayout");
    plot.on("plotly_relayout", (event) => {
      if (!Object.keys(event).some((key) => /range|autosize/.test(key)) || event["xaxis.tickvals"]) return;
      const now = ticks({ x: plot.layout.xaxis.range, y: plot.layout.yaxis.range });
      const changes = {};
      for (const name of ["x", "y"]) for (const key of ["tickvals", "ticktext", "tickfont"]) changes[`${name}axis.${key}`] = now[name][key];
      Plotly.relayout(plot, changes);
    });
  });
}
