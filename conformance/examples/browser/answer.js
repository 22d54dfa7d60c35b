/** Answers the questions under Node: `node answer.js [FOLDER]`, which is prepared/; then
 * `clipref conformance check FOLDER/questions`.
 */

import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { answers } from "./questions.js";
import { runtime } from "./towers.js";

const folder = process.argv[2] ?? "prepared";
const counts = { answered: 0, refused: 0, skipped: 0, failed: 0 };
console.log(`${runtime} under Node ${process.version}`);
for await (const found of answers(async (path) => new Uint8Array(await readFile(join(folder, path))))) {
  counts[found.outcome] += 1;
  const file = join(folder, "questions", found.path);
  await rm(file, { force: true }); // an answer of an earlier run
  if (found.outcome === "answered") await writeFile(file, found.bytes);
  else console.log(`${found.outcome}: ${found.id}: ${found.problem}`);
}
console.log(Object.entries(counts).map(([outcome, count]) => `${count} ${outcome}`).join(", "));
process.exitCode = counts.failed ? 1 : 0;
