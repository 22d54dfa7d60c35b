/** PNG files to samples as they are stored, in the mode that Pillow opens them in (https://www.w3.org/TR/png-3/).
 *
 * A canvas won't do: it has no palettes, no 16 bits, and loses the colours under what is transparent, which CLIP sees.
 * Interlaced files are refused, and 16 bits a sample but for grey ones.
 */

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
// By colour type: grey, RGB, palette, grey with alpha, RGBA.
const BANDS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const MODES = { 0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA" };
// What a byte was stored as a difference from, by the row's filter: of the bytes left, above, and above left of it.
const PREDICTORS = [() => 0, (left) => left, (left, above) => above, (left, above) => (left + above) >> 1, paeth];

/** Whether bytes begin as a PNG file does. */
export function isPng(bytes) {
  return SIGNATURE.every((byte, i) => bytes[i] === byte);
}

/** {mode, width, height, bands, data, palette} of a file's bytes.
 *
 * `mode` is 1, L, I;16, P, LA, RGB or RGBA; `data` [height, width, bands], uint16 in mode I;16, else uint8, where 1-bit
 * samples are 0 or 255. Throws for a file that is damaged or of another kind.
 */
export async function decodePng(bytes) {
  if (!isPng(bytes)) throw new Error("not a PNG file");
  const { header, palette, parts } = readChunks(bytes);
  const view = new DataView(header.buffer, header.byteOffset);
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [depth, type, , , interlaced] = header.subarray(8);
  const bands = BANDS[type];
  if (!bands || interlaced || (depth === 16 && type !== 0)) {
    throw new Error(`a PNG of colour type ${type}, ${depth} bits${interlaced ? ", interlaced" : ""}, is not read here`);
  }
  const rowBytes = Math.ceil((width * bands * depth) / 8);
  const raw = await inflate(parts);
  if (raw.length < height * (rowBytes + 1)) throw new Error("the PNG file was cut short");
  const rows = unfilter(raw, height, rowBytes, Math.max(1, (bands * depth) / 8));
  const mode = type === 0 ? { 1: "1", 16: "I;16" }[depth] ?? "L" : MODES[type];
  const data = unpack(rows, width * bands, height, rowBytes, depth, type === 0);
  return { mode, width, height, bands, data, palette };
}

/** The header, the palette if there is one, and the parts of the compressed samples. */
function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = { header: null, palette: null, parts: [] };
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + length);
    if (name === "IHDR") found.header = content;
    if (name === "PLTE") found.palette = content;
    if (name === "IDAT") found.parts.push(content);
    if (name === "IEND") break;
    at += 12 + length;
  }
  if (found.header?.length !== 13 || !found.parts.length) throw new Error("the PNG file has no header or no samples");
  return found;
}

async function inflate(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The rows without their filters (PNG, chapter 9). `step`: bytes from a pixel to the next. */
function unfilter(raw, height, rowBytes, step) {
  const rows = new Uint8Array(height * rowBytes);
  for (let y = 0; y < height; y++) {
    const start = y * (rowBytes + 1);
    const predict = PREDICTORS[raw[start]];
    if (!predict) throw new Error(`the PNG file has a row with the filter ${raw[start]}`);
    for (let i = 0; i < rowBytes; i++) {
      const at = y * rowBytes + i;
      const left = i >= step ? rows[at - step] : 0;
      const above = y ? rows[at - rowBytes] : 0;
      const corner = y && i >= step ? rows[at - rowBytes - step] : 0;
      rows[at] = raw[start + 1 + i] + predict(left, above, corner); // modulo 256
    }
  }
  return rows;
}

/** Of left, above and corner, the one that is nearest to left + above - corner. */
function paeth(left, above, corner) {
  const a = Math.abs(above - corner);
  const b = Math.abs(left - corner);
  const c = Math.abs(left + above - 2 * corner);
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

/** Samples of 1 to 16 bits, the most significant first, one a place. `grey` samples are stretched to 0..255. */
function unpack(rows, count, height, rowBytes, depth, grey) {
  const data = new (depth === 16 ? Uint16Array : Uint8Array)(height * count);
  const [mask, stretch] = [2 ** depth - 1, grey && depth < 8 ? 255 / (2 ** depth - 1) : 1];
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < count; i++) {
      const at = y * rowBytes + ((i * depth) >> 3);
      const shift = 8 - depth - ((i * depth) & 7);
      data[y * count + i] = depth === 16 ? rows[at] * 256 + rows[at + 1] : ((rows[at] >> shift) & mask) * stretch;
    }
  }
  return data;
}
