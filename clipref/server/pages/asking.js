// What all pages share: asking this server, and pictures that are dropped, pasted or chosen.
"use strict";

const byId = (id) => document.getElementById(id);
const pictures = {}; // data URIs by the id of their input

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  const key = byId("key").value;
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`The server answered ${response.status} without JSON.`);
  }
  if (!response.ok) throw new Error(answer.message || answer.error?.message || `The server answered ${response.status}.`);
  return answer;
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file can't be read."));
    reader.readAsDataURL(file);
  });
}

async function take(id, file) {
  if (!file) return;
  // Whatever the browser makes of the name, the server looks at the bytes.
  const uri = await dataUri(file);
  pictures[id] = `data:image/any;base64,${uri.slice(uri.indexOf(",") + 1)}`;
  const chosen = new DataTransfer();
  chosen.items.add(file);
  byId(id).files = chosen.files; // so that the input names a file that was dropped or pasted, too
  const shown = byId(`shown-${id}`);
  if (shown.src) URL.revokeObjectURL(shown.src);
  shown.src = URL.createObjectURL(file);
  shown.alt = file.name || "a pasted picture";
  shown.hidden = false;
  shown.dispatchEvent(new Event("taken"));
}

function bind(id) {
  const zone = byId(`drop-${id}`);
  byId(id).addEventListener("change", (event) => take(id, event.target.files[0]));
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(id, event.dataTransfer.files[0]);
  });
}

async function attempt(button, error, work) {
  byId(error).textContent = "";
  byId(button).disabled = true;
  try {
    await work();
  } catch (problem) {
    byId(error).textContent = problem.message;
  } finally {
    byId(button).disabled = false;
  }
}

document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((item) => item.type.startsWith("image/"));
  if (file) take("picture", file);
});
// A picture dropped beside a zone would replace the page.
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
