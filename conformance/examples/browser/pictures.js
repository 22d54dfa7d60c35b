/** Picture files of any kind that the browser opens, as png.js has images.
 *
 * PNG files are read by png.js. Others are decoded by the browser, which gives the levels that Pillow gives for a JPEG;
 * their EXIF orientation is ignored, as the original ignores it, and what is transparent is refused, because a canvas
 * keeps no colours under it.
 */

import { decodePng, isPng } from "./png.js";

/** The image of a file's bytes. Throws if the browser can't open it. */
export async function openPicture(bytes) {
  if (isPng(bytes)) return decodePng(bytes);
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(new Blob([withoutExif(bytes)]), options);
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  canvas.drawImage(bitmap, 0, 0);
  const { data } = canvas.getImageData(0, 0, width, height);
  if (data.some((level, i) => i % 4 === 3 && level !== 255)) {
    throw new Error("the picture has transparent parts; save it as a PNG file");
  }
  return { mode: "RGB", width, height, bands: 3, data: data.filter((_, i) => i % 4 !== 3), palette: null };
}

/** A JPEG file without its APP1 segments, in which EXIF lies; other files as they are. */
function withoutExif(bytes) {
  const kept = [];
  let at = 2;
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return bytes;
  while (bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    const end = at + 2 + bytes[at + 2] * 256 + bytes[at + 3];
    if (bytes[at + 1] !== 0xe1) kept.push(bytes.subarray(at, end));
    at = end;
  }
  return new Uint8Array(concatenated([bytes.subarray(0, 2), ...kept, bytes.subarray(at)]));
}

function concatenated(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
