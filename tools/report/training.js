// How training went.

function drawTraining() {
  if (!byId("training")) return;
  const ink = colours();
  const { loss, held_out, metrics, learning_rate } = DATA.learning;
  const line = (points, name, color, more = {}) => ({ x: points.map((p) => p[0]), y: points.map((p) => p[1]), name, mode: "lines", line: { color, width: 2 }, ...more });
  const dots = (points) => (points.length > 1 ? "lines+markers" : "markers");
  const layout = (title, more) => ({ xaxis: axis("step", ink), yaxis: axis("", ink, more), showlegend: true, margin: { l: 52, r: 12, t: 58, b: 42 }, title: titled(title, ink) });
  const smooth = smoothed(loss.map((p) => p[1]));
  draw("plot-loss", [
    line(loss, "each step", ink.bar, { line: { color: ink.bar, width: 1 }, opacity: 0.45, showlegend: false }),
    line(loss.map((p, i) => [p[0], smooth[i]]), `training ${shown(smooth.at(-1), 3, true)}`, ink.accent),
    ...(held_out.length ? [line(held_out, `held out ${shown(held_out.at(-1)[1], 3, true)}`, ink.warm, { mode: dots(held_out) })] : []),
  ], layout("loss", loss.some((p) => p[1] <= 0) ? {} : { type: "log", dtick: "D2" }));
  const named = Object.entries(metrics);
  if (!named.length) empty("plot-metrics", "Not measured during training.");
  else draw("plot-metrics", named.map(([name, points], i) => line(points, `${plain(name)} ${shown(points.at(-1)[1], 3, true)}`, HUES[i % FEW], { mode: dots(points) })), layout("on held-out images", { rangemode: "tozero" }));
  if (learning_rate.length) draw("plot-rate", [line(learning_rate, `now ${learning_rate.at(-1)[1].toPrecision(3)}`, ink.second)], layout("learning rate", { exponentformat: "e", rangemode: "tozero" }));
  else empty("plot-rate", "Not recorded.");
}

// At each place the mean of the last tenth of all values.
function smoothed(values) {
  const width = Math.max(1, Math.floor(values.length / 10));
  let sum = 0;
  return values.map((value, i) => {
    sum += value - (i >= width ? values[i - width] : 0);
    return sum / Math.min(i + 1, width);
  });
}
