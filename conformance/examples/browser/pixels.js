/** Decoded images to the pixels that CLIP was trained on, equal to the original's bit for bit.
 *
 * Pillow's bicubic resize in the image's own mode, the centre crop, RGB, 0 to 1, mean and standard deviation: claims
 * IMG-1 to IMG-8 of SPEC.md. `drawImage` resizes otherwise, by up to 40 of 255 levels.
 *
 * An image is {mode, width, height, bands, data, palette} as png.js has it.
 */

const PRECISION_BITS = 32 - 8 - 2; // of weights: 8 for the level, 2 because sums leave 0..255 on both sides
const SUPPORT = 2; // the kernel is zero from here on
const MAX_RESIZED = 2 ** 26; // pixels before the crop

// What a model's config.json says of preprocessing if it says nothing.
const OPENAI = {
  mean: [0.48145466, 0.4578275, 0.40821073],
  std: [0.26862954, 0.26130258, 0.27577711],
  interpolation: "bicubic",
  resize_mode: "shortest",
  upright: false,
};

/** Pixels [3, side, side] float32 of an image. `steps`: what a config.json says. Throws for others than OpenAI's. */
export function preprocess(image, side, steps = {}) {
  const { mean, std, interpolation, resize_mode, upright } = { ...OPENAI, ...steps };
  if (interpolation !== "bicubic" || resize_mode !== "shortest" || upright) {
    throw new Error("the model is preprocessed otherwise than the original, and that is not done here");
  }
  const levels = squareOf(image, side);
  const pixels = new Float32Array(3 * side * side);
  const [m, s] = [Float32Array.from(mean), Float32Array.from(std)];
  for (let band = 0; band < 3; band++) {
    for (let i = 0; i < side * side; i++) {
      const share = Math.fround(levels[3 * i + band] / 255);
      pixels[band * side * side + i] = Math.fround(share - m[band]) / s[band];
    }
  }
  return pixels;
}

/** Levels [side, side, 3] uint8: resized, cropped, RGB. */
export function squareOf(image, side) {
  const short = Math.min(image.width, image.height);
  const [width, height] = [image.width, image.height].map((length) => Math.floor((side * length) / short));
  if (width * height > MAX_RESIZED) {
    throw new Error(`${image.width} x ${image.height} is too long and thin; crop it first`);
  }
  const [left, top] = [width, height].map((length) => halfToEven(length - side));
  const resized = width === image.width && height === image.height ? image : resize(image, width, height);
  const levels = new Uint8Array(side * side * 3);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      levels.set(colour(resized, (y + top) * width + x + left), 3 * (y * side + x));
    }
  }
  return levels;
}

/** Half of a margin; 2.5 is 2 and 3.5 is 4. */
function halfToEven(margin) {
  const floor = Math.floor(margin / 2);
  return margin % 2 && floor % 2 ? floor + 1 : floor;
}

/** The three levels of a pixel, whatever the mode: palettes looked up, 16 bits clipped, alpha left out. */
function colour({ mode, bands, data, palette }, at) {
  if (mode === "P") return [0, 1, 2].map((band) => palette[3 * data[at] + band] ?? 0);
  if (bands >= 3) return data.subarray(at * bands, at * bands + 3);
  const grey = Math.min(data[at * bands], 255);
  return [grey, grey, grey];
}

/** An image of another size in its own mode, as Pillow resizes it with BICUBIC, the horizontal pass first. */
function resize(image, width, height) {
  const { mode } = image;
  if (mode === "P" || mode === "1") return nearest(image, width, height);
  const alpha = mode === "LA" || mode === "RGBA";
  const given = alpha ? multiplied(image) : image;
  const down = resizeColumns(resizeRows(given, width), height);
  return alpha ? divided(down) : down;
}

function resizeRows(image, width) {
  const { height, bands } = image;
  const [from, to] = [[image.width * bands, bands], [width * bands, bands]];
  return { ...image, width, data: resizeLines(image, height, [image.width, ...from], [width, ...to]) };
}

function resizeColumns(image, height) {
  const { width, bands } = image;
  const steps = [bands, width * bands];
  return { ...image, height, data: resizeLines(image, width, [image.height, ...steps], [height, ...steps]) };
}

/** Lines of pixels of another length. Given and made: the length, and the steps from line to line and along a line. */
function resizeLines({ mode, bands, data }, lines, [size, line, step], [newSize, newLine, newStep]) {
  if (size === newSize) return data;
  const wide = mode === "I;16"; // weights are then floats
  const [half, one, largest] = wide ? [0, 1, 65535] : [2 ** (PRECISION_BITS - 1), 2 ** PRECISION_BITS, 255];
  const made = new data.constructor(lines * newSize * bands);
  for (let out = 0; out < newSize; out++) {
    const { first, weights } = axisWeights(size, newSize, out);
    const taps = wide ? weights : weights.map((weight) => roundAway(weight * one));
    for (let i = 0; i < lines; i++) {
      for (let band = 0; band < bands; band++) {
        let sum = half; // the division below rounds down
        let at = i * line + first * step + band;
        for (const weight of taps) {
          sum += weight * data[at];
          at += step;
        }
        const level = wide ? roundAway(sum) : Math.floor(sum / one);
        made[i * newLine + out * newStep + band] = Math.min(Math.max(level, 0), largest);
      }
    }
  }
  return made;
}

/** The nearest whole number, halves away from 0. */
function roundAway(x) {
  return x < 0 ? -Math.floor(0.5 - x) : Math.floor(x + 0.5);
}

/** The first input that an output is made of, and the weights from there on, which add up to 1.
 *
 * When an image shrinks, the kernel is as much wider, so that no input is left out.
 */
function axisWeights(sizeIn, sizeOut, out) {
  const scale = sizeIn / sizeOut;
  const stretch = Math.max(scale, 1);
  const support = SUPPORT * stretch;
  const centre = (out + 0.5) * scale;
  const first = Math.max(Math.trunc(centre - support + 0.5), 0);
  const last = Math.min(Math.trunc(centre + support + 0.5), sizeIn);
  const weights = [];
  let total = 0;
  for (let i = first; i < last; i++) {
    weights.push(kernel((i - centre + 0.5) * (1 / stretch)));
    total += weights[weights.length - 1];
  }
  return { first, weights: weights.map((w) => w / total) };
}

/** The cubic convolution kernel with a = -0.5 (Keys 1981). */
function kernel(distance) {
  const [a, x] = [-0.5, Math.abs(distance)];
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** Colours times alpha / 255, rounded. */
function multiplied(image) {
  return changed(image, (level, alpha) => {
    const product = level * alpha + 128;
    return ((product >> 8) + product) >> 8;
  });
}

/** Colours divided by alpha / 255, rounded down. */
function divided(image) {
  return changed(image, (level, alpha) => (alpha === 0 ? level : Math.min(Math.floor((255 * level) / alpha), 255)));
}

function changed(image, change) {
  const { bands } = image;
  const data = image.data.map((level, i) => {
    const alpha = image.data[i - (i % bands) + bands - 1];
    return i % bands === bands - 1 ? level : change(level, alpha);
  });
  return { ...image, data };
}

/** Every output is an input: palettes and 1-bit images can't be averaged. */
function nearest(image, width, height) {
  const [columns, rows] = [sources(image.width, width), sources(image.height, height)];
  const data = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) data[y * width + x] = image.data[rows[y] * image.width + columns[x]];
  }
  return { ...image, width, height, data };
}

/** Where each output comes from. Steps are added up as Pillow adds them (src/libImaging/Geometry.c), which rounds. */
function sources(sizeIn, sizeOut) {
  const step = sizeIn / sizeOut;
  let at = step * 0.5;
  return Array.from({ length: sizeOut }, () => {
    const found = Math.min(Math.trunc(at), sizeIn - 1);
    at += step;
    return found;
  });
}
