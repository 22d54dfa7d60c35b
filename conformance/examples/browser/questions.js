/** All questions of a folder, one after the other, whoever reads and writes its files. */

import { Engine, Unsupported } from "./engine.js";
import { readTensors, writeTensors } from "./safetensors.js";
import { TooLong } from "./tokens.js";

/** Answers what it can, and yields what became of each case: {id, outcome, path, bytes, milliseconds}.
 *
 * `read(path)` gives the bytes of a file of the folder that prepare.py wrote. `outcome` is "answered", then `bytes` is
 * what belongs at `path` under questions/; "refused" for a text that is too long, "skipped" for what isn't done, or
 * "failed": then nothing belongs there, and `problem` says why.
 */
export async function* answers(read) {
  const { cases } = JSON.parse(new TextDecoder().decode(await read("questions/export.json")));
  const engine = new Engine(read);
  for (const id of inOrder(cases)) {
    const folder = `cases/${id.replaceAll(" ", "-")}`;
    const asked = JSON.parse(new TextDecoder().decode(await read(`questions/${folder}/case.json`)));
    const inputs = readTensors(await read(`questions/${folder}/inputs.safetensors`));
    const started = performance.now();
    let found;
    try {
      const bytes = writeTensors(await engine.answer(asked, inputs));
      found = { outcome: "answered", bytes };
    } catch (problem) {
      const outcome = problem instanceof TooLong ? "refused" : problem instanceof Unsupported ? "skipped" : "failed";
      found = { outcome, problem: problem?.message ?? String(problem) };
    }
    yield { id, path: `${folder}/answer.safetensors`, ...found, milliseconds: performance.now() - started };
  }
}

/** Cases about one model and one tower together, so that each graph is opened once. */
function inOrder(cases) {
  const key = (id) => [id.split("/")[1], id.split("/").pop()].join("/");
  return [...cases].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
}
