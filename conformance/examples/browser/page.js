/** index.html: a picture and words in, probabilities out, as `clipref classify` gives them. */

import { openPicture } from "./pictures.js";
import { preprocess } from "./pixels.js";
import { cosines, logits, softmax } from "./similarity.js";
import { Tokenizer } from "./tokens.js";
import { runtime, Tower } from "./towers.js";

const element = (id) => document.getElementById(id);
const state = { model: null, tokenizer: null, visual: null, textual: null, picture: null };

async function open() {
  const [model, merges, visual, textual] = await Promise.all([
    fetched("model.json").then((response) => response.json()),
    fetched("merges.txt").then((response) => response.text()),
    fetched("visual.onnx").then((response) => response.arrayBuffer()),
    fetched("textual.onnx").then((response) => response.arrayBuffer()),
  ]);
  const { interpolation, resize_mode, upright } = model.preprocess;
  if (interpolation !== "bicubic" || resize_mode !== "shortest" || upright) {
    throw new Error(`${model.name} is preprocessed otherwise than the original; that is not done here`);
  }
  state.model = model;
  state.tokenizer = new Tokenizer(merges);
  if (state.tokenizer.vocabSize !== model.text.vocab_size) throw new Error("merges.txt is another model's");
  state.visual = await Tower.open(new Uint8Array(visual));
  state.textual = await Tower.open(new Uint8Array(textual));
  element("model").textContent = `${model.name} by ${runtime}`;
  element("classify").disabled = false;
}

async function fetched(name) {
  const response = await fetch(`model/${name}`);
  if (!response.ok) throw new Error(`model/${name} is not there (${response.status}); run prepare.py first`);
  return response;
}

async function choose(file) {
  element("error").textContent = "";
  element("classified").hidden = true;
  element("took").textContent = "";
  state.picture = null;
  const shown = element("shown");
  URL.revokeObjectURL(shown.src);
  shown.src = URL.createObjectURL(file);
  shown.alt = file.name;
  shown.hidden = false;
  try {
    state.picture = await openPicture(new Uint8Array(await file.arrayBuffer()));
  } catch (problem) {
    element("error").textContent = `${file.name}: ${problem.message}`;
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
  const pixels = preprocess(picture, side, model.preprocess.mean, model.preprocess.std);
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

element("picture").addEventListener("change", (event) => event.target.files[0] && choose(event.target.files[0]));
element("classify").addEventListener("click", () => told(classify));
element("drop").addEventListener("dragover", (event) => event.preventDefault());
element("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
});
told(open);
