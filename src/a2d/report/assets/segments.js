// Browser of segments: search, filter, order, and differences between translations.

const PAGE = 10;
const first = data.systems[0];
const browser = document.getElementById("browser");

const create = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const select = (options) => {
  const element = create("select");
  for (const [value, text] of options) element.append(new Option(text, value));
  return element;
};
const labelled = (text, element) => create("label", {}, text, element);

const failed = data.systems.map((system) => {
  const kinds = new Map();
  for (const [kind, places] of Object.entries(system.failures))
    for (const place of places) kinds.set(place, [...(kinds.get(place) ?? []), kind]);
  return kinds;
});

const others = data.systems.slice(1);
const chosen = select(data.systems.map((system, place) => [place, system.label]));
chosen.value = Math.min(1, others.length);
const order = select([
  ...(others.length ? [["worse", `worse than ${first.label}`], ["better", `better than ${first.label}`]] : []),
  ["low", "lowest score"], ["long", "longest source"], ["short", "shortest source"], ["place", "order of the test set"],
]);
const metric = select(Object.keys(first.segments).map((key) => [key, data.metrics[key]]));
const filter = select([["", "all segments"], ["any", "any failure"], ...Object.entries(data.kinds)]);
const against = select([["reference", "reference"], ["first", first.label], ["", "nothing"]]);
const search = create("input", { type: "search", placeholder: "Search all texts" });
const count = create("span", { className: "note" });
const back = create("button", { type: "button", textContent: "‹ Previous" });
const next = create("button", { type: "button", textContent: "Next ›" });
const list = create("div");
const shown = data.systems.map((system, place) => create("input", { type: "checkbox", checked: place < 6 }));
let page = 0;

// Write a text, with its words that differ from `base` marked.
const marked = (base, text) => {
  if (base === null || base === text) return [text];
  return Diff.diffWordsWithSpace(base, text)
    .filter((part) => !part.removed)
    .map((part) => (part.added ? create("ins", { textContent: part.value }) : part.value));
};

const card = (place) => {
  const texts = create("dl");
  const row = (title, content, badges = []) =>
    texts.append(create("dt", {}, title, ...badges), create("dd", { dir: "auto" }, ...content));
  row("source", [data.sources[place]]);
  row("reference", [data.references[place]]);
  data.systems.forEach((system, number) => {
    if (!shown[number].checked) return;
    const base = { reference: data.references[place], first: first.hypotheses[place] }[against.value] ?? null;
    const score = create("span", { className: "score", textContent: ` ${system.segments[metric.value][place].toFixed(0)}` });
    const tags = (failed[number].get(place) ?? []).map((kind) => create("span", { className: "tag", textContent: data.kinds[kind] }));
    row(system.label, [...marked(base, system.hypotheses[place]), ...tags], [score]);
  });
  return create("article", { className: "segment" }, create("span", { className: "place", textContent: `#${place + 1}` }), texts);
};

const matches = () => {
  const system = data.systems[chosen.value];
  const kinds = failed[chosen.value];
  const words = search.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const places = data.sources.map((_, place) => place).filter((place) => {
    const found = kinds.get(place) ?? [];
    if (filter.value === "any" ? !found.length : filter.value && !found.includes(filter.value)) return false;
    if (!words.length) return true;
    const texts = [data.sources[place], data.references[place], ...data.systems.map((s) => s.hypotheses[place])];
    const all = texts.join("\n").toLocaleLowerCase();
    return words.every((word) => all.includes(word));
  });
  const score = (place) => system.segments[metric.value][place];
  const gap = (place) => score(place) - first.segments[metric.value][place];
  const keys = {
    worse: gap, better: (place) => -gap(place), low: score,
    long: (place) => -data.sources[place].length, short: (place) => data.sources[place].length, place: (place) => place,
  };
  return places.sort((a, b) => keys[order.value](a) - keys[order.value](b) || a - b);
};

const draw = () => {
  const places = matches();
  page = Math.max(0, Math.min(page, Math.ceil(places.length / PAGE) - 1));
  const visible = places.slice(page * PAGE, (page + 1) * PAGE);
  list.replaceChildren(...visible.map(card));
  const from = places.length ? page * PAGE + 1 : 0;
  count.textContent = `${from}–${page * PAGE + visible.length} of ${places.length} segments`;
  back.disabled = page === 0;
  next.disabled = (page + 1) * PAGE >= places.length;
};
const restart = () => { page = 0; draw(); };

for (const element of [chosen, order, metric, filter, against, ...shown]) element.addEventListener("change", restart);
search.addEventListener("input", restart);
back.addEventListener("click", () => { page -= 1; draw(); });
next.addEventListener("click", () => { page += 1; draw(); });
for (const button of document.querySelectorAll("button.count"))
  button.addEventListener("click", () => {
    chosen.value = button.dataset.system;
    filter.value = button.dataset.kind;
    order.value = "place";
    shown[button.dataset.system].checked = true;
    restart();
    document.getElementById("segments").scrollIntoView();
  });

browser.append(
  create("div", { className: "choices" },
    labelled("System", chosen), labelled("Order", order), ...(metric.length > 1 ? [labelled("by", metric)] : []), labelled("Show", filter), labelled("Differences from", against), search),
  create("div", { className: "choices" }, ...shown.map((box, place) => create("label", {}, box, data.systems[place].label))),
  create("div", { className: "choices" }, back, next, count),
  list,
);
draw();
