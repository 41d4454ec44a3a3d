// Heat maps: the learned alignment, and attention of teacher, aligned student and student.

const groups = { encoder: "encoder self-attention", decoder: "decoder self-attention", cross: "cross-attention" };
const head = (channel, heads) => `layer ${Math.floor(channel / heads) + 1}, head ${(channel % heads) + 1}`;

// Ticks in the middle of each layer.
const layerTicks = (count, heads) => ({
  ticks: d3.range((heads - 1) / 2, count, heads), tickFormat: (d) => String(Math.floor(d / heads) + 1), tickSize: 0,
});

const drawAlignments = (place) => {
  for (const [student, alignment] of Object.entries(data.alignments)) {
    const title = document.createElement("h3");
    title.textContent = student;
    const row = document.createElement("div");
    row.className = "maps";
    const limit = d3.max(Object.values(alignment), (group) => d3.max(group.weights.flat(), Math.abs));
    for (const [name, group] of Object.entries(alignment)) {
      const cells = group.weights.flatMap((weights, y) => weights.map((weight, x) => ({ x, y, weight })));
      const columns = group.weights[0].length;
      const rows = group.weights.length;
      const size = Math.max(6, Math.min(20, 300 / Math.max(columns, rows)));
      const layers = (count, heads) => d3.range(heads, count, heads).map((edge) => edge - 0.5);
      const chart = Plot.plot({
        width: columns * size + 60, height: rows * size + 60, marginLeft: 45, marginBottom: 40,
        ariaLabel: `alignment of ${groups[name] ?? name}`,
        x: { label: "student layer", ...layerTicks(columns, group.student), domain: [-0.5, columns - 0.5] },
        y: { label: "teacher layer", ...layerTicks(rows, group.teacher), domain: [rows - 0.5, -0.5] },
        color: { scheme: "RdBu", reverse: true, domain: [-limit, limit] },
        marks: [
          Plot.rect(cells, {
            x1: (d) => d.x - 0.5, x2: (d) => d.x + 0.5, y1: (d) => d.y - 0.5, y2: (d) => d.y + 0.5, fill: "weight", z: null,
            channels: { teacher: (d) => head(d.y, group.teacher), student: (d) => head(d.x, group.student) },
            tip: { format: { x1: false, x2: false, y1: false, y2: false, x: false, y: false, fill: ".2f" } },
          }),
          Plot.ruleX(layers(columns, group.student)), Plot.ruleY(layers(rows, group.teacher)),
        ],
      });
      const caption = document.createElement("figcaption");
      caption.textContent = groups[name] ?? name;
      const figure = document.createElement("figure");
      figure.append(caption, chart);
      row.append(figure);
    }
    place.append(title, row);
  }
};

// Attention maps are stored as bytes (255: all attention), one map after the other.
const unpack = (group, channel) => {
  const size = group.queries * group.keys;
  const bytes = atob(group.maps);
  return d3.range(size).map((place) => bytes.charCodeAt(channel * size + place) / 255);
};

const drawMap = (title, values, rows, columns) => {
  const room = document.querySelector("main").clientWidth;
  const size = Math.max(9, Math.min(22, (Math.min(1080, room) / (room > 700 ? 3 : 1) - 105) / columns.length));
  const cells = values.map((attention, place) => ({
    x: place % columns.length, y: Math.floor(place / columns.length), attention,
  }));
  const chart = Plot.plot({
    width: columns.length * size + 85, height: rows.length * size + 85, marginLeft: 80, marginTop: 5, marginBottom: 80, marginRight: 5,
    ariaLabel: title,
    x: { label: null, domain: d3.range(columns.length), tickFormat: (d) => columns[d], tickRotate: -60, tickSize: 0 },
    y: { label: null, domain: d3.range(rows.length), tickFormat: (d) => rows[d], tickSize: 0 },
    color: { scheme: "Blues", domain: [0, 1] },
    marks: [
      Plot.cell(cells, {
        x: "x", y: "y", fill: "attention", z: null,
        channels: { query: (d) => rows[d.y], key: (d) => columns[d.x] },
        tip: { format: { x: false, y: false, fill: ".0%" } },
      }),
    ],
  });
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  const figure = document.createElement("figure");
  figure.append(caption, chart);
  return figure;
};

const drawMaps = (place) => {
  const choices = document.createElement("div");
  choices.className = "choices";
  const row = document.createElement("div");
  row.className = "maps";
  const select = (options) => {
    const element = document.createElement("select");
    for (const [value, text] of options) element.append(new Option(text, value));
    choices.append(element);
    return element;
  };
  const sentence = select(data.attention.map((each, index) => [index, each.source]));
  const group = select(Object.entries(groups));
  const channel = select([]);
  const fill = () => {
    const { teacher } = data.attention[sentence.value].groups[group.value];
    channel.replaceChildren(...d3.range(teacher.channels).map((c) => new Option(`teacher: ${head(c, teacher.heads)}`, c)));
  };
  const draw = () => {
    const each = data.attention[sentence.value];
    const { teacher, student, aligned, strongest } = each.groups[group.value];
    const rows = group.value === "encoder" ? each.sourceTokens : each.targetTokens;
    const columns = group.value === "decoder" ? each.inputTokens : each.sourceTokens;
    const c = Number(channel.value);
    const maps = [drawMap("Teacher", unpack(teacher, c), rows, columns)];
    if (aligned) maps.push(drawMap("Student, aligned", unpack(aligned, c), rows, columns));
    maps.push(drawMap(`Student, ${head(strongest[c], student.heads)}`, unpack(student, strongest[c]), rows, columns));
    row.replaceChildren(...maps);
  };
  sentence.addEventListener("change", () => { fill(); draw(); });
  group.addEventListener("change", () => { fill(); draw(); });
  channel.addEventListener("change", draw);
  fill();
  place.append(choices, row);
  draw();
};

if (document.getElementById("alignments")) drawAlignments(document.getElementById("alignments"));
if (document.getElementById("maps")) drawMaps(document.getElementById("maps"));
