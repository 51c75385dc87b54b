"use strict";
const model = JSON.parse(document.getElementById("model").textContent);
const form = document.getElementById("form"), answer = document.getElementById("answer");

/** An element with attributes and children; all texts are texts. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (typeof value === "boolean") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function percent(share) {
  if (share == null) return "–";
  const digits = share === 0 || share === 1 ? 0 : share > 0.9995 || share < 0.0005 ? 2 : 1;
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}
const plural = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many || `${one}s`}`;
function written(value) {
  if (value == null) return "not finite";
  const size = Math.abs(value);
  return size && (size >= 1e7 || size < 1e-3) ? value.toExponential(3) : value.toLocaleString("en", { maximumSignificantDigits: 6 });
}

// What the model is

const MEASURED = { test: "test", valid: "validation" };
function aboutModel() {
  const target = model.target && model.target.length === 1 ? `${model.target[0]}: ` : "";
  const says = {
    class: `${target}one of ${plural((model.classes || []).length, "class", "classes")}`,
    labels: `any of ${plural((model.classes || []).length, "label")}`,
    values: model.target ? `the ${model.target.length === 1 ? "number" : "numbers"} ${model.target.join(" and ")}` : "numbers",
  }[model.answers];
  const parts = [says, `${model.model}, ${plural(model.parameters, "parameter")}`];
  if (model.data) parts.push(`trained on ${model.data}`);
  const split = ["test", "valid"].find((name) => model.result[name]);
  if (split) {
    const result = model.result[split];
    const name = Object.keys(result).find((one) => one !== "loss") || "loss";
    const value = name.endsWith("accuracy") ? percent(result[name]) : written(result[name]);
    parts.push(`${MEASURED[split]} ${name.replaceAll("_", " ")} ${value}`);
  }
  return parts.join(" · ");
}

const JSON_TYPE = "curl -H 'Content-Type: application/json'";
const HOW = {
  image: "curl -F file=@photo.jpg",
  table: `${JSON_TYPE} \\\n  -d '${shell(model.example)}'`,
  texts: `${JSON_TYPE} \\\n  -d '{"text": "..."}'`,
  array: model.example && JSON.stringify(model.example).length < 400
    ? `${JSON_TYPE} \\\n  -d '${shell(model.example)}'`
    : "curl -H 'Content-Type: application/octet-stream' \\\n  --data-binary @samples.npy",
};
function shell(value) {
  return JSON.stringify(value ?? null).replaceAll("'", `'\\''`);
}

// The answer

function bar(name, share, best) {
  const fill = make("i");
  fill.style.width = `${Math.max(0, Math.min(1, share ?? 0)) * 100}%`;
  return make("li", best ? { class: "best" } : {}, make("span", {}, name), make("span", { class: "share" }, percent(share)),
    make("div", { class: "track", "aria-hidden": "true" }, fill));
}

function shown(prediction) {
  if (prediction.top) {
    const head = make("p", { class: "said" }, prediction.class, " ", make("span", { class: "soft" }, percent(prediction.probability)));
    const bars = prediction.top.map((one, i) => bar(one.class, one.probability, i === 0));
    return [head, make("ul", { class: "bars", "aria-label": "Probabilities" }, ...bars)];
  }
  if (prediction.labels) {
    const chips = prediction.labels.map((label) => make("span", {}, label));
    const head = chips.length ? make("p", { class: "chips" }, ...chips) : make("p", { class: "said" }, make("span", { class: "soft" }, "none of the labels"));
    const sorted = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
    const bars = sorted.map(([name, share]) => bar(name, share, prediction.labels.includes(name)));
    return [head, make("ul", { class: "bars", "aria-label": "Probabilities" }, ...bars)];
  }
  if ("value" in prediction) {
    const name = model.target && model.target.length === 1 ? [make("span", { class: "soft" }, `${model.target[0]} `)] : [];
    return [make("p", { class: "said" }, ...name, written(prediction.value))];
  }
  if (prediction.values) {
    const lines = Object.entries(prediction.values).map(([name, value]) =>
      make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, written(value))));
    return [make("table", { class: "values" }, make("tbody", {}, ...lines))];
  }
  return [make("pre", {}, JSON.stringify(prediction.output))];
}

const MOST = 50;
function show(result, names, took) {
  const several = result.predictions.length > 1;
  const items = result.predictions.slice(0, MOST).map((prediction, i) =>
    make("div", { class: "one" }, ...(several ? [make("h3", {}, names[i] || `${i + 1}`)] : []), ...shown(prediction)));
  if (result.predictions.length > MOST) items.push(make("p", { class: "soft" }, `and ${result.predictions.length - MOST} more`));
  const notes = result.notes.map((note) => make("p", { class: "notice" }, note));
  answer.replaceChildren(...items, ...notes, make("p", { class: "soft took" }, `answered in ${took} ms`));
}

function complain(words) {
  answer.replaceChildren(make("p", { class: "notice", role: "alert" }, words));
}

let asked = 0;
async function ask(body, headers = {}, names = []) {
  const mine = ++asked, began = performance.now(), button = form.querySelector(".first");
  if (button) button.disabled = true;
  try {
    const response = await fetch("/predict", { method: "POST", body, headers });
    const unread = `The service answered with status ${response.status}, and nothing that this page can read. Try again in a moment.`;
    const result = await response.json().catch(() => ({ error: unread }));
    if (mine !== asked) return;
    if (response.ok && result.predictions) show(result, names, Math.round(performance.now() - began));
    else complain(result.error);
  } catch {
    if (mine === asked) complain("The service does not answer. Is it still running?");
  } finally {
    if (button && mine === asked) button.disabled = false;
  }
}
const askJson = (value) => ask(JSON.stringify(value), { "Content-Type": "application/json" });

// What is asked

function dropZone(words, accept, multiple, take, kind = "drop") {
  const input = make("input", { type: "file", accept, multiple, "aria-label": words });
  const zone = make("label", { class: kind }, make("span", {}, make("strong", {}, words), make("br"), multiple ? "or choose some" : "or choose one"), input);
  input.addEventListener("change", () => take([...input.files]));
  for (const name of ["dragenter", "dragover"]) zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.remove("over"); });
  zone.addEventListener("drop", (event) => take([...event.dataTransfer.files]));
  return zone;
}

function askFiles(files, type) {
  if (!files.length) return;
  const total = files.reduce((sum, file) => sum + file.size, 0);
  if (total > model.limits.bytes) {
    complain(`These are ${plural(total, "byte")}, and a request has at most ${model.limits.bytes.toLocaleString("en")}.`);
    return;
  }
  const body = new FormData();
  for (const file of files) body.append("file", type ? new Blob([file], { type }) : file, "file");
  ask(body, {}, files.map((file) => file.name));
}

function images() {
  const previews = make("div", { class: "shown" });
  const take = (files) => {
    if (!files.length) return;
    previews.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
    previews.classList.toggle("many", files.length > 1);
    previews.replaceChildren(...files.slice(0, 12).map((file) => {
      const image = make("img", { alt: file.name, src: URL.createObjectURL(file) });
      image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 100));
      image.addEventListener("error", () => image.remove());
      return image;
    }));
    askFiles(files);
  };
  document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
  return [dropZone("Drop an image here, or paste it", "image/*", true, take), previews];
}

function control(column, i) {
  const id = `column-${i}`;
  if (column.type === "category" && !column.more && column.values.length <= 30) {
    return make("select", { id }, make("option", { value: "" }, "(missing)"), ...column.values.map((value) => make("option", { value }, value)));
  }
  const input = make("input", { id, type: "text", inputmode: column.type === "number" ? "decimal" : "text", autocomplete: "off" });
  if (!column.values) return [input];
  input.setAttribute("list", `${id}-values`);
  return [input, make("datalist", { id: `${id}-values` }, ...column.values.map((value) => make("option", { value })))];
}

function hint(column) {
  if (column.range && column.range.length) return `${column.range[0].toLocaleString?.("en") ?? column.range[0]} to ${column.range[1].toLocaleString?.("en") ?? column.range[1]}`;
  if (column.type === "date") return "YYYY-MM-DD";
  return column.more ? `${(column.values.length + column.more).toLocaleString("en")} values known` : column.type === "number" ? "a number" : "";
}

function buttons(...more) {
  return make("div", { class: "row" }, make("button", { class: "first", type: "submit" }, "Predict"), ...more);
}

function table() {
  const columns = model.input.columns, controls = [];
  const fields = columns.map((column, i) => {
    const made = [control(column, i)].flat();
    controls.push(made[0]);
    return make("div", { class: "field" }, make("label", { for: `column-${i}` }, column.name), ...made, ...(hint(column) ? [make("small", {}, hint(column))] : []));
  });
  const typical = () => columns.forEach((column, i) => { controls[i].value = column.typical ?? ""; });
  const clear = make("button", { type: "button", class: "second" }, "Empty");
  clear.addEventListener("click", () => controls.forEach((one) => { one.value = ""; }));
  const again = make("button", { type: "button", class: "second" }, "Typical values");
  again.addEventListener("click", typical);
  typical();
  form.addEventListener("submit", () => {
    const value = (column, text) => {
      if (text.trim() === "") return null;
      return column.type === "number" && Number.isFinite(Number(text)) ? Number(text) : text;
    };
    askJson(Object.fromEntries(columns.map((column, i) => [column.name, value(column, controls[i].value)])));
  });
  const file = make("input", { type: "file", accept: ".csv,.tsv,text/csv", hidden: true, id: "csv" });
  file.addEventListener("change", () => { askFiles([...file.files], "text/csv"); file.value = ""; });
  const choose = make("button", { type: "button", class: "second" }, "A CSV file …");
  choose.addEventListener("click", () => file.click());
  return [make("div", { class: "fields" }, ...fields), buttons(again, clear, choose, file)];
}

function texts() {
  const area = make("textarea", { id: "text", "aria-label": "Text", placeholder: "A text" });
  area.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); });
  form.addEventListener("submit", () => askJson({ text: area.value }));
  return [area, buttons()];
}

function arrays() {
  const area = make("textarea", { id: "array", class: "code", "aria-label": "Array as JSON", spellcheck: "false" });
  if (model.example) area.value = JSON.stringify(model.example);
  form.addEventListener("submit", () => ask(area.value, { "Content-Type": "application/json" }));
  const shape = model.input.shape ? `JSON of shape [${model.input.shape.join(", ")}], or a list of such` : "JSON: a list of samples";
  return [make("p", { class: "soft" }, shape), area, buttons(), dropZone("Drop a .npy file here", ".npy", false, (files) => askFiles(files), "drop low")];
}

function theme() {
  const root = document.documentElement, button = document.getElementById("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
}

document.title = `${model.run} – onecycle`;
document.getElementById("name").textContent = model.run;
document.getElementById("about").textContent = aboutModel();
document.getElementById("curl").textContent = `${HOW[model.kind]} \\\n  ${location.origin}/predict`;
document.getElementById("limits").textContent =
  `A request has at most ${plural(model.limits.samples, "sample")} and ${plural(model.limits.bytes, "byte")}. ` +
  "The answer is JSON; GET /model says what the model is.";
form.addEventListener("submit", (event) => event.preventDefault());
form.append(...{ image: images, table, texts, array: arrays }[model.kind]());
theme();
