// A starter for an engine of CLIP under test, JavaScript under Node, without any package. It answers as it stands:
//
//     clipref conformance run "exec:node engine.mjs" --levels describe taps similarity
//
// It is called as `engine.mjs VERB CASE_DIR OUT.safetensors`, reads CASE_DIR/case.json and CASE_DIR/inputs.safetensors,
// writes the outputs to OUT.safetensors and exits with 0, or with 3 for what it doesn't do. Your CLIP belongs between
// "yours begins" and "yours ends"; the rest may stay as it is.

import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

const DECLINED = 3;

// --- files: safetensors. A tensor is { shape, data }; data is float32, or int64 as BigInt64Array, or uint8 -----------

function half(bits) {
  const exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const value = exponent ? (1024 + mantissa) * 2 ** (exponent - 25) : mantissa * 2 ** -24;
  return bits >> 15 ? -value : value;
}

const READERS = {
  F16: (bytes) => Float32Array.from(new Uint16Array(bytes), half),
  F32: (bytes) => new Float32Array(bytes),
  I64: (bytes) => new BigInt64Array(bytes),
  U8: (bytes) => new Uint8Array(bytes),
  BOOL: (bytes) => new Uint8Array(bytes),
};

// A file is the length of a JSON header, in 8 bytes, the header, and the bytes of the tensors.
function readTensors(file) {
  const bytes = readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const { __metadata__, ...header } = JSON.parse(bytes.subarray(8, start).toString("utf8"));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(header)) {
    const part = new Uint8Array(bytes.subarray(start + begin, start + end)).buffer; // a copy, and so aligned
    tensors[name] = { shape, data: READERS[dtype](part) };
  }
  return tensors;
}

function writeTensors(file, tensors) {
  const header = {}, parts = [];
  let end = 0;
  for (const [name, { shape, data }] of Object.entries(tensors)) {
    const whole = data instanceof BigInt64Array;
    const array = whole ? data : Float32Array.from(data);
    parts.push(Buffer.from(array.buffer, array.byteOffset, array.byteLength));
    header[name] = { dtype: whole ? "I64" : "F32", shape, data_offsets: [end, (end += array.byteLength)] };
  }
  const encoded = Buffer.from(JSON.stringify(header)), length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(encoded.length));
  writeFileSync(file, Buffer.concat([length, encoded, ...parts]));
}

// Activations by the names of their modules in the checkpoint: what trace_image and trace_text answer with.
const taps = {};

function tap(name, tensor) {
  taps[name] = tensor;
  return tensor;
}

// --- yours begins ----------------------------------------------------------------------------------------------------

// Preprocessed pixels [N, 3, R, R] -> embeddings [N, E], not normalised; null as long as it isn't done. `config` is
// "vision" of config.json, `w` the tensors of model.safetensors by name. May be async.
function encodeImage(pixels, w, config) {
  // A first activation, to show how a trace is asked: the patches [N, G*G, W], row by row from the top left.
  const [n, colours, side] = pixels.shape, patch = config.patch_size, grid = Math.floor(side / patch);
  const kernel = w["visual.conv1.weight"], [width] = kernel.shape; // [W, 3, P, P]
  const patches = new Float32Array(n * grid * grid * width);
  for (let i = 0, to = 0; i < n; i++)
    for (let t = 0; t < grid * grid; t++)
      for (let c = 0, k = 0; c < width; c++, to++)
        for (let colour = 0; colour < colours; colour++)
          for (let y = 0; y < patch; y++)
            for (let x = 0; x < patch; x++, k++) {
              const row = (i * colours + colour) * side + Math.floor(t / grid) * patch + y;
              patches[to] += kernel.data[k] * pixels.data[row * side + (t % grid) * patch + x];
            }
  tap("visual.conv1", { shape: [n, grid * grid, width], data: patches });
  return null; // TODO: your image tower. Return { shape: [N, E], data }, and `tap` what it computes on the way.
}

// Ids [N, T] (BigInt), padded with 0 -> embeddings [N, E], of the first end of text, whose id is vocab_size - 1.
function encodeText(ids, w, config) {
  const embedding = w["token_embedding.weight"], [, width] = embedding.shape; // [V, W]
  const data = new Float32Array(ids.data.length * width);
  const row = (id) => embedding.data.subarray(Number(id) * width, (Number(id) + 1) * width);
  ids.data.forEach((id, i) => data.set(row(id), i * width));
  tap("token_embedding", { shape: [...ids.shape, config.width], data });
  return null; // TODO: your text tower.
}

// --- yours ends ------------------------------------------------------------------------------------------------------

// Embeddings [N, E] as vectors of length 1, an array a row.
function unitVectors({ shape: [n, width], data }) {
  return Array.from({ length: n }, (_, i) => {
    const row = data.subarray(i * width, (i + 1) * width), length = Math.hypot(...row);
    return row.map((x) => x / length);
  });
}

function similarity(image, text, logitScale) {
  const a = unitVectors(image), b = unitVectors(text), scale = Math.exp(logitScale.data[0]);
  const cosines = a.flatMap((x) => b.map((y) => x.reduce((sum, value, c) => sum + value * y[c], 0)));
  const shape = [a.length, b.length];
  return { cosines: { shape, data: cosines }, logits: { shape, data: cosines.map((x) => x * scale) } };
}

function describe(config) {
  const whole = (x) => ({ shape: [], data: BigInt64Array.of(BigInt(x)) });
  return {
    embed_dim: whole(config.embed_dim),
    resolution: whole(config.vision.resolution),
    context_length: whole(config.text.context_length),
    vocab_size: whole(config.text.vocab_size),
  };
}

// The outputs of a verb by name. Null for what this engine doesn't do: ResNets; tokenize, preprocess, operation,
// embed_image, embed_text and compare.
async function answer(verb, folder) {
  const inputs = readTensors(path.join(folder, "inputs.safetensors"));
  if (verb === "similarity") return similarity(inputs.image, inputs.text, inputs.logit_scale);
  const [what, tower] = verb.split("_");
  if (verb !== "describe" && what !== "encode" && what !== "trace") return null;
  const { checkpoint } = JSON.parse(readFileSync(path.join(folder, "case.json"), "utf8"));
  const model = path.resolve(folder, checkpoint); // which is absolute, or relative to the case
  const config = JSON.parse(readFileSync(path.join(model, "config.json"), "utf8"));
  if (verb === "describe") return describe(config);
  if (tower === "image" && config.vision.kind !== "vit") return null;
  const w = readTensors(path.join(model, "model.safetensors"));
  const embeddings = await (tower === "image"
    ? encodeImage(inputs.pixels, w, config.vision)
    : encodeText(inputs.ids, w, config.text));
  const outputs = { ...(embeddings && { embeddings }), ...(what === "trace" && taps) };
  return Object.keys(outputs).length ? outputs : null;
}

const [verb, folder, out] = process.argv.slice(2);
if (!out) {
  console.error("usage: engine.mjs VERB CASE_DIR OUT.safetensors");
  process.exit(1);
}
const outputs = await answer(verb, folder);
if (outputs) writeTensors(out, outputs);
else console.error(`declined: ${verb}`);
process.exitCode = outputs ? 0 : DECLINED;
