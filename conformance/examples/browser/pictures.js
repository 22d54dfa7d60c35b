/** Picture files of any kind that the browser opens, as png.js has images.
 *
 * PNG files are read by png.js. Others are decoded by the browser, which gives the levels that Pillow gives for a JPEG.
 * Their EXIF orientation is ignored, as the original ignores it. Refused are a JPEG in CMYK, which Pillow resizes
 * before it is RGB, and what is transparent, because a canvas keeps no colours under it.
 */

import { decodePng, isPng } from "./png.js";

const [APP1, DHT, JPG, DAC, SOS] = [0xe1, 0xc4, 0xc8, 0xcc, 0xda]; // markers of ITU-T T.81, table B.1

/** The image of a file's bytes. Throws if the browser can't open it. */
export async function openPicture(bytes) {
  if (isPng(bytes)) return decodePng(bytes);
  const file = new Blob([bytes[0] === 0xff && bytes[1] === 0xd8 ? withoutExif(bytes) : bytes]);
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  canvas.drawImage(bitmap, 0, 0);
  const rgba = canvas.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    if (rgba[4 * i + 3] !== 255) throw new Error("the picture has transparent parts; save it as a PNG file");
    for (let band = 0; band < 3; band++) data[3 * i + band] = rgba[4 * i + band];
  }
  return { mode: "RGB", width, height, bands: 3, data, palette: null };
}

/** A JPEG file without its APP1 segments, in which EXIF lies. Throws for CMYK. */
function withoutExif(bytes) {
  const kept = new Uint8Array(bytes.length);
  let size = 0;
  const keep = (part) => {
    kept.set(part, size);
    size += part.length;
  };
  keep(bytes.subarray(0, 2));
  let at = 2;
  while (at + 10 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== SOS) {
    const marker = bytes[at + 1];
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![DHT, JPG, DAC].includes(marker);
    if (isFrame && bytes[at + 9] === 4) throw new Error("the picture is in CMYK; save it in RGB");
    const end = at + 2 + bytes[at + 2] * 256 + bytes[at + 3];
    if (marker !== APP1) keep(bytes.subarray(at, end));
    at = end;
  }
  keep(bytes.subarray(at));
  return kept.subarray(0, size);
}
