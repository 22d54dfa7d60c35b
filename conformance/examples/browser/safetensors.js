/** safetensors: 8 bytes with the length of a JSON header, the header, and the tensors' bytes.
 *
 * A tensor is {shape, data}: a list of whole numbers, and a typed array in row-major order. What float16 tensors there
 * are lie in checkpoints, which nothing here reads.
 */

const ARRAYS = { F32: Float32Array, F64: Float64Array, I32: Int32Array, I64: BigInt64Array, U8: Uint8Array };

/** The tensors of a file's bytes, by name. Throws where a tensor is of another type. */
export function readTensors(bytes) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const tensors = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const Kind = ARRAYS[entry.dtype];
    if (!Kind) throw new Error(`${name} is ${entry.dtype}; expected one of ${Object.keys(ARRAYS)}`);
    const [begin, end] = entry.data_offsets.map((offset) => 8 + length + offset);
    tensors[name] = { shape: entry.shape, data: new Kind(bytes.slice(begin, end).buffer) }; // a copy, for its alignment
  }
  return tensors;
}

/** The bytes of a file with these tensors. */
export function writeTensors(tensors) {
  const header = {};
  let end = 0;
  for (const [name, { shape, data }] of Object.entries(tensors)) {
    const dtype = Object.keys(ARRAYS).find((key) => data instanceof ARRAYS[key]);
    header[name] = { dtype, shape, data_offsets: [end, end + data.byteLength] };
    end += data.byteLength;
  }
  const encoded = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(8 + encoded.length + end);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(encoded.length), true);
  bytes.set(encoded, 8);
  for (const [name, { data }] of Object.entries(tensors)) {
    const start = 8 + encoded.length + header[name].data_offsets[0];
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), start);
  }
  return bytes;
}
