// Charts of scores, of ranges of segments, and of training.

const range = data.systems.map((_, place) =>
  place < 10 ? d3.schemeTableau10[place] : d3.interpolateTurbo(place / data.systems.length),
);
const colors = { domain: data.systems.map((system) => system.label), range };
const wide = () => Math.min(1080, document.querySelector("main").clientWidth);

const look = { width: wide(), marginLeft: 50, marginBottom: 40, grid: true, style: { fontSize: "13px" } };

// A labelled choice; `changed` is called with its value, now and after every change.
const choice = (title, options, changed) => {
  const label = document.createElement("label");
  const select = document.createElement("select");
  for (const [value, text] of options) select.append(new Option(text, value));
  label.append(title, select);
  select.addEventListener("change", () => changed(select.value));
  return { label, select };
};

const metrics = Object.entries(data.metrics).reverse();

// Vertical offsets of the labels of points, so that those of neighbouring points do not overlap.
const spread = (systems, chart, point) => {
  const place = (axis, system) => chart.scale(axis).apply(point[axis](system));
  const placed = [];
  for (const system of d3.sort(systems, (system) => place("y", system))) {
    const [x, y] = [place("x", system), place("y", system)];
    const above = placed.filter((other) => Math.abs(other.x - x) < 130).map((other) => other.y + 16);
    placed.push({ system, x, y: Math.max(y - 8, ...above) });
  }
  return placed.map(({ system, y }) => ({ system, dy: y - place("y", system) }));
};

const drawFront = (figure) => {
  const axes = [
    ["speed", `speed over ${data.systems[0].label}’s`, (system) => system.speed / data.systems[0].speed],
    ["bytes", "size on disk (MB)", (system) => system.bytes / 1e6],
    ["parameters", "parameters (millions)", (system) => system.parameters / 1e6],
    ["minutes", "minutes of training", (system) => system.minutes],
  ].filter(([key]) => data.systems.filter((system) => system[key] != null).length > 1);
  if (!axes.length) return figure.remove();
  const draw = () => {
    const [key, title, value] = axes.find(([name]) => name === x.select.value);
    const metric = y.select.value;
    const known = data.systems.filter((system) => system[key] != null);
    const name = metrics.find(([other]) => other === metric)[1];
    const point = { x: value, y: (system) => system.scores[metric] };
    const [low, high] = d3.extent(known, value);
    const log = high > 4 * low && low > 0;
    const domain = log ? [low / 1.3, high * 1.3] : [0, 1.1 * high];
    const plot = (labels) => Plot.plot({
      ...look, height: 380, marginRight: 120, ariaLabel: `${name} by ${title}`,
      x: { label: title, type: log ? "log" : "linear", domain, ticks: 6, tickFormat: "~g" },
      y: { label: name, nice: true },
      color: colors,
      marks: [
        Plot.ruleY([data.systems[0]], { y: point.y, stroke: "currentColor", strokeDasharray: "4 4", strokeOpacity: 0.5 }),
        Plot.ruleX(known, {
          x: value, stroke: "label",
          y1: (s) => s.scores[metric] - s.spreads[metric], y2: (s) => s.scores[metric] + s.spreads[metric],
        }),
        Plot.dot(known, {
          ...point, fill: "label", r: 6,
          channels: {
            system: "label",
            ...Object.fromEntries(metrics.map(([key, title]) => [title, (s) => s.scores[key].toFixed(2)])),
          },
          tip: { format: { x: ".3~s", y: ".2f", fill: false } },
        }),
        ...labels,
      ],
    });
    const label = ({ system, dy }) =>
      Plot.text([system], { ...point, text: "label", textAnchor: "start", dx: 10, dy, lineWidth: 14 });
    const chart = plot(spread(known, plot([]), point).map(label));
    figure.replaceChildren(choices, chart);
  };
  const x = choice("by", axes.map(([key, title]) => [key, title]), draw);
  const y = choice("Quality", metrics, draw);
  const choices = document.createElement("div");
  choices.className = "choices";
  choices.append(y.label, x.label);
  draw();
};

const drawBuckets = (place) => {
  for (const bucket of data.buckets) {
    const points = data.systems.flatMap((system, row) =>
      bucket.labels.map((label, column) => ({
        label, system: system.label, chrF: bucket.chrf[row][column], segments: bucket.sizes[column],
      })),
    );
    if (!points.length) continue;
    const short = (label) => (label.length > 24 ? `…${label.slice(-23)}` : label);
    const chart = Plot.plot({
      ...look, width: Math.min(560, wide()), height: bucket.ordered ? 320 : 400, marginBottom: bucket.ordered ? 50 : 130,
      ariaLabel: `chrF by ${bucket.title}`,
      x: { domain: bucket.labels, label: null, tickRotate: bucket.ordered ? 0 : -40, tickFormat: (d) => `${short(d)}\n${bucket.sizes[bucket.labels.indexOf(d)]} seg.` },
      y: { label: "chrF", nice: true },
      color: { ...colors, legend: true },
      marks: [
        bucket.ordered ? Plot.lineY(points, { x: "label", y: "chrF", stroke: "system", strokeOpacity: 0.6 }) : null,
        Plot.dot(points, { x: "label", y: "chrF", fill: "system", channels: { segments: "segments" }, tip: { format: { y: ".1f" } } }),
      ],
    });
    const figure = document.createElement("figure");
    figure.className = "chart";
    const title = document.createElement("h3");
    title.textContent = `By ${bucket.title}`;
    figure.append(title, chart);
    place.append(figure);
  }
};

const terms = {
  eval_chrf: "validation chrF (greedy)", eval_bleu: "validation BLEU (greedy)",
  eval_ce: "validation cross-entropy (nats per token)", ce: "training cross-entropy (nats per token)",
  loss: "training loss", kd: "word-level distillation", encoder: "encoder self-attention",
  decoder: "decoder self-attention", cross: "cross-attention", learning_rate: "learning rate", grad_norm: "gradient norm",
};

const drawCurves = (figure) => {
  const logs = Object.entries(data.curves);
  const skipped = new Set(["epoch", "step", "seconds", "total_flos", "train_loss"]);
  const has = (key) => logs.some(([, log]) => log.filter((entry) => key in entry).length > 1);
  const keys = [...new Set(logs.flatMap(([, log]) => log.flatMap(Object.keys)))]
    .filter((key) => !skipped.has(key) && !/runtime|per_second/.test(key) && has(key))
    .sort((a, b) => (Object.keys(terms).indexOf(a) + 99) % 99 - (Object.keys(terms).indexOf(b) + 99) % 99);
  if (!keys.length) return figure.closest("section").remove();
  const title = (key) => terms[key] ?? key.replace(/^eval_/, "validation: ");
  const draw = () => {
    const key = y.select.value;
    const axis = x.select.value;
    const points = logs.flatMap(([name, log]) =>
      log.filter((entry) => key in entry && axis in entry).map((entry) => ({
        training: name, [key]: entry[key], x: axis === "seconds" ? entry.seconds / 60 : entry[axis],
      })),
    );
    const chart = Plot.plot({
      ...look, height: 380, marginLeft: 60, ariaLabel: `${title(key)} during training`,
      x: { label: axis === "seconds" ? "minutes" : axis },
      y: { label: title(key), nice: true },
      color: { legend: true, scheme: logs.length > 10 ? "turbo" : "tableau10", domain: logs.map(([name]) => name) },
      marks: [
        Plot.lineY(points, { x: "x", y: key, stroke: "training", marker: key.startsWith("eval") ? "circle" : undefined }),
        Plot.tip(points, Plot.pointer({ x: "x", y: key, stroke: "training" })),
      ],
    });
    figure.replaceChildren(choices, chart);
  };
  const y = choice("", keys.map((key) => [key, title(key)]), draw);
  const x = choice("by", [["epoch", "epoch"], ["seconds", "time"], ["step", "update"]], draw);
  const choices = document.createElement("div");
  choices.className = "choices";
  choices.append(y.label, x.label);
  draw();
};

drawFront(document.getElementById("front"));
drawBuckets(document.getElementById("bucket-charts"));
if (document.getElementById("curves")) drawCurves(document.getElementById("curves"));
