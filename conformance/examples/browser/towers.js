/** The graphs of `clipref export-onnx` under onnxruntime-web, in a browser or under Node.
 *
 * The runtime is what npm has put into node_modules beside this file; nothing is loaded from elsewhere.
 */

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more need a page that is isolated from other origins: COOP and COEP
ort.env.logLevel = "error";

export const runtime = `onnxruntime-web ${ort.env.versions.web}`;

/** One tower: a graph with one input and one output, and any number of items. */
export class Tower {
  /** `bytes`: of visual.onnx or textual.onnx. */
  static async open(bytes) {
    return new Tower(await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
  }

  constructor(session) {
    this.session = session;
    [this.input] = session.inputMetadata;
  }

  /** Embeddings {shape: [N, E], data: float32} of pixels [N, 3, R, R], or of ids [N, T] whatever their type. */
  async embed({ shape, data }) {
    const kinds = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };
    const Kind = kinds[this.input.type];
    const given = data instanceof Kind ? data : Kind.from(data, Kind === BigInt64Array ? BigInt : Number);
    const tensor = new ort.Tensor(this.input.type, given, shape);
    const found = Object.values(await this.session.run({ [this.input.name]: tensor }));
    return { shape: [...found[0].dims], data: found[0].data };
  }

  /** Give the memory back. */
  async close() {
    await this.session.release();
  }
}
