/** Files as one tar archive (POSIX.1-1988, ustar), which `tar xf` unpacks. */

/** The archive's bytes. `files`: [path, bytes] pairs, paths of ASCII and at most 100 characters. */
export function tar(files) {
  const parts = files.flatMap(([path, bytes]) => [header(path, bytes.length), bytes, padding(bytes.length)]);
  return new Blob([...parts, new Uint8Array(1024)], { type: "application/x-tar" });
}

function header(path, size) {
  if (path.length > 100) throw new Error(`${path} is longer than 100 characters`);
  const block = new Uint8Array(512);
  const put = (at, text) => block.set(new TextEncoder().encode(text), at);
  put(0, path);
  put(100, "0000644\0" + "0000000\0" + "0000000\0"); // permissions, owner, group
  put(124, `${size.toString(8).padStart(11, "0")}\0` + "00000000000\0"); // and the time
  put(148, " ".repeat(8) + "0"); // the sum, which counts as spaces; a regular file
  put(257, "ustar\0" + "00");
  const sum = block.reduce((total, byte) => total + byte, 0);
  put(148, `${sum.toString(8).padStart(6, "0")}\0 `);
  return block;
}

function padding(size) {
  return new Uint8Array((512 - (size % 512)) % 512);
}
