/** Answers to the questions of clipref's conformance suite: everything but single operations and activations.
 *
 * A question is a folder that `clipref conformance export` wrote; protocol.py lists its inputs and outputs by name. The
 * towers' answers are those of the graphs that `clipref export-onnx` wrote of the question's checkpoint.
 */

import { decodePng } from "./png.js";
import { preprocess } from "./pixels.js";
import { cosines, logits } from "./similarity.js";
import { Tokenizer } from "./tokens.js";
import { Tower } from "./towers.js";

/** What this engine doesn't do. */
export class Unsupported extends Error {}

/** An engine over files. `read(path)` gives the bytes of a file of the folder that prepare.py wrote, or throws. */
export class Engine {
  constructor(read) {
    this.read = read;
    this.tokenizers = new Map();
    this.opened = { path: "", tower: null };
  }

  /** The outputs by name of a case (case.json) with its inputs. Throws Unsupported. */
  async answer({ verb, attributes, checkpoint }, inputs) {
    const model = checkpoint?.split("/").pop();
    const verbs = {
      describe: () => this.describe(model),
      tokenize: () => this.tokenize(inputs, attributes),
      preprocess: async () => ({ pixels: await pixels(inputs, attributes.resolution) }),
      encode_image: async () => ({ embeddings: await this.embed(model, "visual", inputs.pixels) }),
      encode_text: async () => ({ embeddings: await this.embed(model, "textual", inputs.ids) }),
      embed_image: async () => ({ embeddings: await this.image(model, inputs) }),
      embed_text: async () => ({ embeddings: await this.texts(model, inputs) }),
      compare: () => this.compare(model, inputs),
      similarity: () => similarity(inputs),
    };
    if (!verbs[verb]) throw new Unsupported(`no ${verb}`);
    return verbs[verb]();
  }

  async describe(model) {
    const { embed_dim, vision, text } = await this.config(model);
    const { context_length, vocab_size } = text;
    const numbers = { embed_dim, resolution: vision.resolution, context_length, vocab_size };
    return Object.fromEntries(Object.entries(numbers).map(([name, n]) => [name, array([], Int32Array.of(n))]));
  }

  async tokenize({ texts }, { context_length: length, truncate }) {
    const tokenizer = await this.tokenizer();
    const listed = listOf(texts);
    return { ids: array([listed.length, length], tokenizer.encode(listed, length, truncate)) };
  }

  async image(model, inputs) {
    const { vision, preprocess: steps } = await this.config(model);
    const found = await pixels(inputs, vision.resolution, steps);
    return this.embed(model, "visual", array([1, ...found.shape], found.data));
  }

  async texts(model, inputs) {
    const [{ text }, tokenizer] = [await this.config(model), await this.tokenizer(model)];
    if (tokenizer.vocabSize !== text.vocab_size) throw new Error(`${model} has another vocabulary`);
    const listed = listOf(inputs.texts);
    const ids = tokenizer.encode(listed, text.context_length);
    return this.embed(model, "textual", array([listed.length, text.context_length], ids));
  }

  async compare(model, inputs) {
    const { shape, data } = cosines(await this.image(model, inputs), await this.texts(model, inputs));
    return { similarity: array(shape.slice(1), data) };
  }

  /** Embeddings by a graph. One is kept open, so ask about one after the other. */
  async embed(model, tower, given) {
    const path = `graphs/${model}/${tower}.onnx`;
    if (this.opened.path !== path) {
      await this.opened.tower?.close();
      this.opened = { path, tower: await Tower.open(await this.read(path)) };
    }
    return this.opened.tower.embed(given);
  }

  config(model) {
    return this.json(`questions/checkpoints/${model}/config.json`);
  }

  async json(path) {
    return JSON.parse(new TextDecoder().decode(await this.read(path)));
  }

  /** The tokenizer of a model, or of the published ones. */
  async tokenizer(model) {
    const { files } = await this.json("questions/export.json");
    const own = `checkpoints/${model}/merges.txt`;
    const path = own in files ? `questions/${own}` : "merges.txt";
    if (!this.tokenizers.has(path)) {
      const table = new TextDecoder().decode(await this.read(path));
      this.tokenizers.set(path, new Tokenizer(table, await this.json("tables.json")));
    }
    return this.tokenizers.get(path);
  }
}

function array(shape, data) {
  return { shape, data };
}

/** A JSON list of texts. */
function listOf({ data }) {
  return JSON.parse(new TextDecoder().decode(data));
}

/** Pixels [3, side, side] of the bytes of a PNG file. */
async function pixels({ image }, side, steps) {
  return array([3, side, side], preprocess(await decodePng(image.data), side, steps));
}

function similarity({ image, text, logit_scale: scale }) {
  const found = cosines(image, text);
  return { cosines: found, logits: logits(found, Math.exp(scale.data[0])) };
}
