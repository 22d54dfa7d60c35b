// The page at /: it talks to this server only, through the same routes as any other client.
"use strict";

function row(entry) {
  const cells = [document.createElement("td"), document.createElement("td"), document.createElement("td")];
  cells[0].textContent = entry.label;
  const meter = document.createElement("meter");
  meter.value = entry.probability;
  cells[1].append(meter, `${(100 * entry.probability).toFixed(2)} %`);
  cells[2].textContent = entry.similarity.toFixed(4);
  const line = document.createElement("tr");
  line.append(...cells);
  return line;
}

async function classify() {
  if (!pictures.picture) throw new Error("Choose a picture first.");
  const labels = byId("labels").value.split("\n").map((text) => text.trim()).filter(Boolean);
  if (!labels.length) throw new Error("Type at least one label.");
  const body = { model: byId("models").value, image: pictures.picture, labels, templates: [byId("template").value] };
  const found = await ask("v1/classify", body);
  byId("classified").tBodies[0].replaceChildren(...found.labels.map(row));
  byId("classified").hidden = false;
}

async function compare() {
  if (!pictures.left || !pictures.right) throw new Error("Choose two pictures first.");
  const image = (id) => ({ type: "base64", value: pictures[id] });
  const found = await ask("clip/compare", {
    clip_version_id: byId("models").value,
    subject: image("left"),
    prompt: image("right"),
    prompt_type: "image",
  });
  byId("compared").textContent = `Cosine: ${found.similarity[0].toFixed(4)}`;
}

function fact(name, value) {
  const term = document.createElement("dt");
  const text = document.createElement("dd");
  term.textContent = name;
  text.textContent = value;
  byId("facts").append(term, text);
}

async function tell() {
  const info = await ask("info");
  byId("key-row").hidden = !info.api_keys;
  byId("model-row").hidden = info.models.length < 2;
  for (const model of info.models) {
    byId("models").append(new Option(model.id, model.id));
    fact("model", model.id);
    fact("weights", model.weights);
    fact("backend", `${model.backend}, ${model.precision} (${model.fidelity})`);
    fact("photographs", model.upright ? "turned upright as EXIF says" : "as they lie in their files");
    fact("an item's bits", model.same_bits_in_any_batch ? "the same in any batch" : "may depend on its batch, by rounding");
  }
  for (const [name, value] of Object.entries(info.limits)) fact(name.replaceAll("_", " "), value.toLocaleString("en"));
  fact("version", info.version);
  byId("model").textContent = `${info.models.map((model) => model.id).join(", ")}, by ${info.models[0].backend}`;
}

for (const id of ["picture", "left", "right"]) bind(id);
byId("classify").addEventListener("click", () => attempt("classify", "classify-error", classify));
byId("compare").addEventListener("click", () => attempt("compare", "compare-error", compare));
tell().catch((problem) => {
  byId("model").textContent = problem.message;
});
