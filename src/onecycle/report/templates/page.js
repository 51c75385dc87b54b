"use strict";
(() => {
  const { keys, clocks, figures } = JSON.parse(document.getElementById("data").textContent);
  const missing = document.getElementById("missing");
  if (missing) missing.hidden = typeof Plotly !== "undefined"; // a page that was sent without its plotly.js
  if (typeof Plotly === "undefined") document.querySelectorAll("figure, .controls, .legend").forEach((part) => part.remove());
  const plots = [...document.querySelectorAll(".plot")];
  const root = document.documentElement;
  const spoken = document.getElementById("spoken");
  const shown = keys.map((key) => key.shown);
  const axisOf = (plot) => plot.closest("section").querySelector(".axis input:checked")?.value ?? "updates";

  // Shares are drawn in percent.
  const inPercent = (value) => (value == null ? value : 100 * value);
  for (const figure of figures.filter((figure) => figure.percent)) {
    for (const line of figure.series)
      for (const part of ["y", "low", "high"]) if (line[part]) line[part] = line[part].map(inPercent);
    figure.level = inPercent(figure.level);
    figure.frame = figure.frame?.map(inPercent);
  }

  // Plotly reads some HTML in names.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const faded = (colour, alpha) => `rgba(${[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)).join(",")},${alpha})`;
  const written = (value, percent) =>
    value == null ? "-" : percent ? value.toFixed(2) + " %" : String(Number(value.toPrecision(4)));

  function interpolated(x, xs, ys) {
    let i = xs.findIndex((knot) => knot >= x);
    if (i < 0) return ys.at(-1);
    if (i === 0) return ys[0];
    return ys[i - 1] + ((ys[i] - ys[i - 1]) * (x - xs[i - 1])) / (xs[i] - xs[i - 1]);
  }

  // Update k, counted from 0, ends after k + 1 updates.
  function placed(line, axis) {
    if (line.clock == null) return line.x;
    const clock = clocks[line.clock];
    if (axis === "epochs") return line.x.map((k) => (clock.per_epoch ? (k + 1) / clock.per_epoch : null));
    if (axis === "seconds") return line.x.map((k) => interpolated(k, clock.update, clock.seconds));
    return line.x;
  }

  const SYMBOLS = { solid: "circle", dash: "square", dot: "diamond", dashdot: "cross" };

  function band(line, axis) {
    const known = line.low.map((_, i) => i).filter((i) => line.low[i] != null);
    const at = placed(line, axis);
    const back = [...known].reverse();
    return {
      x: [...known, ...back].map((i) => at[i]), y: [...known.map((i) => line.high[i]), ...back.map((i) => line.low[i])],
      fill: "toself", mode: "lines", line: { width: 0 }, fillcolor: faded(keys[line.key].colour, 0.18),
      hoverinfo: "skip", meta: line.key, visible: shown[line.key],
    };
  }

  function said(line, i, percent) {
    if (line.text) return line.text[i];
    const ends = line.low?.[i] == null ? "" : ` (${written(line.low[i], percent)} to ${written(line.high[i], percent)})`;
    return written(line.y[i], percent) + ends;
  }

  function marks(line) {
    const { colour, dash } = keys[line.key];
    const symbol = SYMBOLS[dash];
    if (line.mode === "markers") return { color: colour, symbol, ...(line.text ? { size: 7 } : { size: 5, opacity: 0.6 }) };
    if (line.mode !== "intervals") return { color: colour, symbol, size: 7 };
    return { color: colour, symbol: line.bound.map((bound) => (bound ? `${symbol}-open` : symbol)), size: 10,
             line: { color: colour, width: 2 } };
  }

  // An open end has an arrow in place of a whisker.
  function whiskers(line) {
    const reach = (ends) => ends.map((end, i) => (end == null ? 0 : Math.abs(end - line.y[i])));
    return { type: "data", symmetric: false, array: reach(line.high), arrayminus: reach(line.low),
             color: keys[line.key].colour, thickness: 1.8, width: 6 };
  }

  function arrows(figure) {
    const open = (line, ends, up) => ends.flatMap((end, i) => (end != null ? [] : [{
      x: line.x[i], y: line.y[i], yshift: 44 * up, ax: 0, ay: 44 * up, text: "", showarrow: true,
      arrowhead: 2, arrowwidth: 1.8, arrowcolor: keys[line.key].colour,
    }]));
    return figure.series.filter((line) => line.mode === "intervals" && shown[line.key])
      .flatMap((line) => [...open(line, line.low, -1), ...open(line, line.high, 1)]);
  }

  const names = (figure) => figure.ahead.map(([x, text]) => ({
    x: figure.kind === "log" ? Math.log10(x) : x, y: 1, yref: "paper", yanchor: "bottom", text: plain(text), showarrow: false,
  }));

  function traces(figure, axis) {
    const crowd = figure.series.length > 24;
    const bands = figure.series.filter((line) => line.low && line.mode !== "intervals").map((line) => band(line, axis));
    const lines = figure.series.map((line) => {
      const { label, colour, dash, faint } = keys[line.key];
      const beside = (line.mode === "markers" && !line.text) || (faint && line.clock == null); // their mean says what they are
      const intervals = line.mode === "intervals";
      if (line.mode === "bars")
        return { type: "bar", x: line.x, y: line.y, meta: line.key, name: plain(label), visible: shown[line.key], width: 0.6,
                 marker: { color: colour }, text: line.y.map((_, i) => said(line, i, figure.percent)), textposition: "none",
                 hovertemplate: "%{text}<extra></extra>" };
      return {
        x: placed(line, axis), y: line.y, meta: line.key, name: plain(label), visible: shown[line.key],
        mode: intervals ? "markers" : line.mode, line: { color: colour, dash, width: faint ? 1 : crowd ? 1.4 : 2.2 },
        cliponaxis: !intervals, opacity: faint ? 0.4 : crowd ? 0.8 : 1, marker: marks(line), text: line.y.map((_, i) => said(line, i, figure.percent)),
        ...(intervals ? { error_y: whiskers(line) } : {}),
        ...(beside ? { hoverinfo: "skip" } : { hovertemplate: "%{text}<extra>%{fullData.name}</extra>" }),
      };
    });
    return [...bands, ...lines];
  }

  // The interval of few seeds can be far wider than all that was measured, and leave what is possible: the lines decide
  // what is in the frame.
  function frame(figure) {
    if (figure.frame) return { range: figure.log ? figure.frame.map(Math.log10) : figure.frame };
    const lines = figure.series.filter((line) => shown[line.key]);
    const bands = lines.filter((line) => line.low && line.mode !== "intervals");
    const scaled = (values) => values.filter((v) => v != null && (v > 0 || !figure.log)).map(figure.log ? Math.log10 : Number);
    const [ys, lows, highs] = [lines.flatMap((l) => l.y), bands.flatMap((l) => l.low), bands.flatMap((l) => l.high)].map(scaled);
    if (!highs.length || !ys.length) return {};
    const [bottom, top] = [Math.min(...ys), Math.max(...ys)];
    const [low, high] = [Math.min(bottom, ...lows), Math.max(top, ...highs)];
    const room = (top - bottom) / 2;
    const least = bottom >= 0 && !figure.log ? 0 : -Infinity;
    const range = [Math.max(low, bottom - room, least), Math.min(high, top + room, figure.percent ? 100 : Infinity)];
    const margin = (range[1] - range[0]) / 20;
    return { range: [range[0] - margin, range[1] + margin] };
  }

  const wideEnough = (figure) => figure.series.filter((line) => shown[line.key]).length <= 8;

  // Figures over time begin and end alike, whether their lines have marks or not.
  function span(figure, axis) {
    const known = figure.series.flatMap((line) => placed(line, axis)).filter((x) => x != null);
    if (figure.kind !== "time" || !known.length) return {};
    const [low, high] = [Math.min(0, ...known), Math.max(...known)];
    const margin = (high - low) / 50 || 1;
    return { range: [low - margin, high + margin] };
  }

  function layout(figure, axis) {
    const font = { family: "inherit", size: 13 };
    const line = { yref: "paper", y0: 0, y1: 1, type: "line", line: { color: "#808080", width: 1.5, dash: "dot" } };
    const shapes = [];
    if (figure.shade)
      shapes.push({ type: "rect", x0: figure.shade[0], x1: figure.shade[1], yref: "paper", y0: 0, y1: 1,
                    fillcolor: "rgba(0,158,115,0.16)", line: { width: 0 }, layer: "below" });
    // Over time marks are at updates, by the clock of the lines, and have their name beside them.
    const clock = figure.kind === "time" ? figure.series.find((series) => series.clock != null)?.clock : null;
    const marked = clock == null ? figure.marks : placed({ clock, x: figure.marks }, axis);
    const [first, last] = span(figure, axis).range ?? [];
    marked.forEach((at, i) => {
      const xanchor = at > (first + last) / 2 ? "right" : "left"; // towards the middle, where there is room
      const label = figure.kind === "time" && figure.names[i] ? { text: figure.names[i], textposition: "end", textangle: 0, xanchor, font } : undefined;
      if (at != null) shapes.push({ ...line, x0: at, x1: at, ...(label ? { label } : {}) });
    });
    if (figure.level != null)
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: figure.level, y1: figure.level, line: line.line });
    return {
      font, shapes, annotations: [...arrows(figure), ...names(figure)], showlegend: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 54, r: 12, t: figure.ahead.length || (figure.kind === "time" && figure.names.length) ? 24 : 8, b: 42 },
      hovermode: wideEnough(figure) && !figure.ahead.length ? "x unified" : "closest", dragmode: false, hoverdistance: -1,
      hoverlabel: { font, namelength: 40 },
      xaxis: {
        title: { text: plain(figure.kind === "time" ? axis : figure.x), standoff: 8 }, zeroline: false, automargin: "height",
        hoverformat: figure.kind === "log" ? ".3~g" : ".5~g", ...(["time", "linear"].includes(figure.kind) ? { tickformat: "~g" } : {}),
        type: figure.kind === "log" ? "log" : figure.kind === "category" ? "category" : "linear",
        gridcolor: "#ddd", nticks: innerWidth < 600 ? 5 : 10, ...span(figure, axis), ...ticks(figure.kind, figure.series.flatMap((line) => line.x)),
      },
      yaxis: {
        title: { text: plain(figure.y), standoff: 6 }, zeroline: false, automargin: true, gridcolor: "#ddd", nticks: 6,
        type: figure.log ? "log" : "linear", ticksuffix: figure.percent ? " %" : "",
        tickformat: "~g", ...(figure.log ? decades(figure.series.flatMap((line) => line.y)) : {}), ...frame(figure),
      },
    };
  }

  // 1, 2 and 5 of each decade, or the powers of ten alone where there are many.
  function decades(values) {
    const known = values.filter((value) => value > 0);
    const [low, high] = [Math.log10(Math.min(...known)), Math.log10(Math.max(...known))];
    const ticks = [];
    for (let e = Math.floor(low); e <= Math.ceil(high); e++)
      for (const m of high - low < 2 ? [1, 2, 5] : [1]) ticks.push(Number(`${m}e${e}`));
    return { tickvals: ticks, ticktext: ticks.map(String) };
  }

  function ticks(kind, values) {
    const known = [...new Set(values)];
    if (kind === "log" && known.length > 8) return decades(known);
    // A few settings: each has its tick.
    return (kind === "log" || kind === "linear") && known.length <= 8 ? { tickvals: known, ticktext: known.map(String) } : {};
  }

  const figureOf = (plot) => figures[plot.dataset.figure];

  function draw(plot) {
    const figure = figureOf(plot);
    const axis = axisOf(plot);
    plot.dataset.drawn = axis;
    // Where nothing can point without pressing, the buttons would stay over the figure.
    const config = { responsive: true, displaylogo: false, scrollZoom: false,
                     displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
                     modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };
    Plotly.react(plot, traces(figure, axis), layout(figure, axis), config);
  }

  // What is far below is drawn when it comes near, one figure a frame: the first is there before the second is begun.
  const due = [];
  function drawDue() {
    draw(due.shift());
    if (due.length) requestAnimationFrame(drawDue);
  }
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries)
      if (isIntersecting) {
        seen.unobserve(target);
        if (due.push(target) === 1) requestAnimationFrame(drawDue);
      }
  }, { rootMargin: "400px" });
  plots.forEach((plot) => seen.observe(plot));
  const redraw = (part) => part.querySelectorAll(".plot[data-drawn]").forEach(draw);

  document.querySelectorAll(".axis").forEach((fieldset) => {
    fieldset.hidden = false;
    fieldset.addEventListener("change", () => redraw(fieldset.closest("section")));
  });

  document.querySelectorAll(".key").forEach((button) => button.addEventListener("click", () => {
    const key = button.dataset.key;
    shown[key] = !shown[key];
    button.setAttribute("aria-pressed", shown[key]);
    redraw(button.closest("section"));
  }));

  // Arrow keys move along the line with the most points, and read the value of each line nearest to there. Of lines that
  // follow each other they move along all points, and read those that are there.
  const nearest = (xs, x) => xs.reduce((best, at, i) => (Math.abs(at - x) < Math.abs(xs[best] - x) ? i : best), 0);

  function read(plot, step) {
    const lines = plot.data.filter((trace) => trace.visible && trace.hovertemplate && trace.x.length);
    if (!lines.length) return;
    const apart = figureOf(plot).ahead.length > 0;
    const xs = apart ? [...new Set(lines.flatMap((trace) => trace.x))].sort((a, b) => a - b)
      : lines.reduce((most, trace) => (trace.x.length > most.x.length ? trace : most)).x;
    const at = Math.min(Math.max(Number(plot.dataset.at ?? (step > 0 ? -1 : xs.length)) + step, 0), xs.length - 1);
    plot.dataset.at = at;
    const category = figureOf(plot).kind === "category";
    Plotly.Fx.hover(plot, { xval: category ? at : xs[at] }, "xy");
    const value = (trace) => trace.text[category ? trace.x.indexOf(xs[at]) : nearest(trace.x, xs[at])];
    const there = (trace) => trace.text.filter((_, i) => trace.x[i] === xs[at]).join(" and ");
    const values = apart
      ? lines.filter((trace) => trace.x.includes(xs[at])).map((trace) => `${keys[trace.meta].label} ${there(trace)}`)
      : lines.map((trace) => `${keys[trace.meta].label} ${value(trace) ?? "-"}`);
    spoken.textContent = `${plot.layout.xaxis.title.text} ${category ? xs[at] : written(xs[at])}: ${values.join(", ")}`;
  }

  plots.forEach((plot) => plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !plot.dataset.drawn) return;
    event.preventDefault();
    read(plot, event.shiftKey ? 10 * step : step);
  }));

  document.querySelectorAll(".sortable").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) =>
      head.querySelector("button").addEventListener("click", () => sort(table, heads, head, column)));
  });

  function sort(table, heads, head, column) {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value;
    const text = (row) => row.cells[column].textContent;
    const empty = (row) => text(row) === "-";
    const order = (a, b) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b); // what is missing comes last, either way
      const numbers = value(a) !== undefined && value(b) !== undefined;
      const found = numbers ? value(a) - value(b) : text(a).localeCompare(text(b), "en", { numeric: true });
      return down ? -found : found;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  }

  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const named = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  const kept = (action) => { try { return action(); } catch { return null; } }; // a browser may keep nothing for files
  const before = kept(() => localStorage.getItem("onecycle-theme"));
  if (before === "dark" || before === "light") root.dataset.theme = before;
  theme.hidden = false;
  named();
  system.addEventListener("change", named);
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    kept(() => localStorage.setItem("onecycle-theme", root.dataset.theme));
    named();
  });

  // On paper everything is drawn and open, as wide as the paper.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((part) => { part.open = true; });
    plots.forEach((plot) => { draw(plot); Plotly.relayout(plot, { width: 660 }); });
  });
  addEventListener("afterprint", () => {
    closed.forEach((part) => { part.open = false; });
    plots.forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true }));
  });
})();
