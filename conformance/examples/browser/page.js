/** index.html: a picture and words in, probabilities out, as `clipref classify` gives them. */

import { openPicture } from "./pictures.js";
import { preprocess } from "./pixels.js";
import { cosines, logits, softmax } from "./similarity.js";
import { Tokenizer } from "./tokens.js";
import { runtime, Tower } from "./towers.js";

const element = (id) => document.getElementById(id);
const state = { model: null, tokenizer: null, visual: null, textual: null, file: null, picture: null };

async function open() {
  const [model, merges, tables, visual, textual] = await Promise.all([
    fetched("model.json").then((response) => response.json()),
    fetched("merges.txt").then((response) => response.text()),
    fetched("tables.json").then((response) => response.json()),
    fetched("visual.onnx").then((response) => response.arrayBuffer()),
    fetched("textual.onnx").then((response) => response.arrayBuffer()),
  ]);
  state.model = model;
  state.tokenizer = new Tokenizer(merges, tables);
  if (state.tokenizer.vocabSize !== model.text.vocab_size) throw new Error("merges.txt is another model's");
  state.visual = await Tower.open(new Uint8Array(visual));
  state.textual = await Tower.open(new Uint8Array(textual));
  element("model").textContent = `${model.name} by ${runtime}`;
  element("classify").disabled = false;
}

async function fetched(name) {
  const response = await fetch(`prepared/model/${name}`);
  if (!response.ok) throw new Error(`prepared/model/${name} is not there (${response.status}); run prepare.py first`);
  return response;
}

async function choose(file) {
  Object.assign(state, { file, picture: null });
  element("classified").hidden = true;
  element("took").textContent = "";
  const shown = element("shown");
  URL.revokeObjectURL(shown.src);
  Object.assign(shown, { src: URL.createObjectURL(file), alt: file.name, hidden: false });
  try {
    const picture = await openPicture(new Uint8Array(await file.arrayBuffer()));
    if (state.file === file) state.picture = picture; // and no other has been chosen since
  } catch (problem) {
    throw new Error(`${file.name}: ${problem.message}`);
  }
}

async function classify() {
  const started = performance.now();
  const { model, picture } = state;
  if (!picture) throw new Error("no picture yet; drop or choose one");
  const labels = element("labels").value.split("\n").map((line) => line.trim()).filter((line) => line);
  if (!labels.length) throw new Error("no labels yet; write one a line");
  const template = element("template").value;
  if (!template.includes("{}")) throw new Error("the template has no {}, where the label belongs");
  const [side, length] = [model.vision.resolution, model.text.context_length];
  const pixels = preprocess(picture, side, model.preprocess);
  const image = await state.visual.embed({ shape: [1, 3, side, side], data: pixels });
  const ids = state.tokenizer.encode(labels.map((label) => template.replaceAll("{}", label)), length);
  const found = cosines(image, await state.textual.embed({ shape: [labels.length, length], data: ids }));
  show(labels, found.data, softmax(logits(found, model.logit_scale).data));
  element("took").textContent = `${(performance.now() - started).toFixed(0)} ms`;
}

function show(labels, cosinesOf, probabilities) {
  const order = labels.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  const rows = order.map((i) => {
    const row = document.createElement("tr");
    for (const text of [labels[i], `${(100 * probabilities[i]).toFixed(2)} %`, cosinesOf[i].toFixed(4)]) {
      row.append(Object.assign(document.createElement("td"), { textContent: text }));
    }
    return row;
  });
  element("classified").tBodies[0].replaceChildren(...rows);
  element("classified").hidden = false;
}

/** What goes wrong is shown in the page. */
async function told(step) {
  element("error").textContent = "";
  element("classify").disabled = true;
  try {
    await step();
  } catch (problem) {
    element("error").textContent = problem.message;
  }
  element("classify").disabled = !state.textual;
}

function chosen(files) {
  if (files[0]) told(() => choose(files[0]));
}

element("picture").addEventListener("change", (event) => chosen(event.target.files));
element("drop").addEventListener("dragover", (event) => event.preventDefault());
element("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  chosen(event.dataTransfer.files);
});
element("classify").addEventListener("click", () => told(classify));
told(open);
