/** answer.html: the questions answered in this browser, and the answers as one file to download. */

import { answers } from "./questions.js";
import { tar } from "./tar.js";
import { runtime } from "./towers.js";

const element = (id) => document.getElementById(id);
element("runtime").textContent = `${runtime}; ${navigator.userAgent}`;

async function read(path) {
  const response = await fetch(`prepared/${path}`);
  if (!response.ok) throw new Error(`prepared/${path} is not there (${response.status}); run prepare.py first`);
  return new Uint8Array(await response.arrayBuffer());
}

async function answer() {
  const counts = { answered: 0, refused: 0, skipped: 0, failed: 0 };
  const files = [];
  element("cases").tBodies[0].replaceChildren();
  for await (const found of answers(read)) {
    counts[found.outcome] += 1;
    if (found.outcome === "answered") files.push([found.path, found.bytes]);
    else addRow([found.id, found.outcome, found.problem]);
    element("counts").textContent = Object.entries(counts).map(([outcome, count]) => `${count} ${outcome}`).join(", ");
  }
  element("download").href = URL.createObjectURL(tar(files));
  element("download").hidden = false;
}

function addRow(texts) {
  const row = document.createElement("tr");
  row.append(...texts.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  element("cases").tBodies[0].append(row);
  element("cases").hidden = false;
}

element("answer").addEventListener("click", async () => {
  element("answer").disabled = true;
  element("download").hidden = true;
  element("error").textContent = "";
  try {
    await answer();
  } catch (problem) {
    element("error").textContent = problem.message;
  }
  element("answer").disabled = false;
});
