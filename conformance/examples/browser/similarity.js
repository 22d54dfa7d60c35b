/** Cosines of embeddings, and what CLIP makes of them. An array is {shape: [N, E], data}. */

/** Cosines {shape: [N, M], data} of images and texts. */
export function cosines(images, texts) {
  const [n, m, width] = [images.shape[0], texts.shape[0], images.shape[1]];
  const [a, b] = [unit(images), unit(texts)];
  const data = new Float32Array(n * m);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < m; j++) {
      let sum = 0;
      for (let k = 0; k < width; k++) sum += a[i * width + k] * b[j * width + k];
      data[i * m + j] = sum;
    }
  }
  return { shape: [n, m], data };
}

/** Rows of length 1, in float64. */
function unit({ shape: [n, width], data }) {
  const rows = Float64Array.from(data);
  for (let i = 0; i < n; i++) {
    const row = rows.subarray(i * width, (i + 1) * width);
    const length = Math.sqrt(row.reduce((sum, x) => sum + x * x, 0));
    row.forEach((x, k) => (row[k] = x / length));
  }
  return rows;
}

/** Logits of cosines. `scale` is the factor; checkpoints have its logarithm. */
export function logits({ shape, data }, scale) {
  return { shape, data: data.map((cosine) => scale * cosine) };
}

/** Probabilities of a list of logits, which add up to 1. */
export function softmax(values) {
  const highest = Math.max(...values);
  const shares = Array.from(values, (value) => Math.exp(value - highest));
  const total = shares.reduce((sum, share) => sum + share, 0);
  return shares.map((share) => share / total);
}
