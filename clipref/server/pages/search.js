// The page at /search: the terms and filters of a query, its hits as thumbnails, and more like one of them.
"use strict";

let like = null; // the hit that pictures shall be like
let asked = 0; // so that a late answer doesn't replace that of a later question

function terms() {
  const found = [];
  if (byId("text").value.trim()) found.push({ text: byId("text").value.trim() });
  if (byId("minus").value.trim()) found.push({ text: byId("minus").value.trim(), weight: -1 });
  if (pictures.picture) found.push({ image: pictures.picture });
  if (like) found.push({ id: like.id });
  return found;
}

function query() {
  const body = { terms: terms(), top_k: Number(byId("count").value) || 40 };
  if (!body.terms.length) throw new Error("Type what the pictures show, or give a picture.");
  if (!byId("folder-row").hidden) body.folder = byId("folder").value;
  for (const name of ["after", "before", "path"]) {
    if (byId(name).value.trim()) body[name] = byId(name).value.trim();
  }
  if (byId("within").value) body.within = Number(byId("within").value);
  return body;
}

async function search() {
  const number = ++asked;
  const body = query();
  const found = await ask("v1/search", body);
  if (number !== asked) return;
  const count = found.hits.length;
  byId("found").textContent = count ? `${count} of ${found.pictures} pictures, the nearest first` : "No picture fits.";
  seen.disconnect();
  byId("hits").replaceChildren(...found.hits.map((hit) => picture(hit, found.folder)));
}

// Thumbnails are fetched when they come into view.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    show(entry.target);
  }
}, { rootMargin: "200px" });

async function show(image) {
  try {
    const { folder, id } = image.dataset;
    image.src = (await ask("v1/thumbnail", { folder, id: Number(id) })).image;
  } catch (problem) {
    image.alt = `${image.alt}: ${problem.message}`;
    image.classList.add("failed");
  }
}

function picture(hit, folder) {
  const image = document.createElement("img");
  image.alt = hit.path;
  image.dataset.folder = folder;
  image.dataset.id = hit.id;
  const path = document.createElement("span");
  path.className = "path";
  path.textContent = hit.path;
  const about = document.createElement("small");
  const each = hit.cosines.length > 1 ? ` (${hit.cosines.map((cosine) => cosine.toFixed(3)).join(", ")})` : "";
  about.textContent = [hit.score.toFixed(3) + each, hit.taken?.slice(0, 10)].filter(Boolean).join(" · ");
  const more = document.createElement("button");
  more.type = "button";
  more.textContent = "More like this";
  more.setAttribute("aria-label", `More like ${hit.path}`);
  more.addEventListener("click", () => moreLike(hit));
  const item = document.createElement("li");
  item.append(image, path, about, more);
  seen.observe(image);
  return item;
}

function moreLike(hit) {
  forgetPicture();
  byId("text").value = byId("minus").value = "";
  like = hit;
  byId("like").textContent = hit.path;
  byId("like-row").hidden = false;
  byId("found-title").scrollIntoView({ block: "nearest" });
  run();
}

function forgetPicture() {
  delete pictures.picture;
  byId("picture").value = "";
  byId("shown-picture").hidden = byId("forget-picture").hidden = true;
}

function forgetLike() {
  like = null;
  byId("like-row").hidden = true;
}

const run = () => attempt("search", "search-error", search);

async function tell() {
  const keyed = (await ask("info")).api_keys;
  byId("key-row").hidden = !keyed;
  if (keyed && !byId("key").value) {
    byId("about").textContent = "Give the key that the server asks for.";
    return;
  }
  const folders = (await ask("v1/folders")).data;
  byId("folder-row").hidden = folders.length < 2;
  byId("folder").replaceChildren(...folders.map((folder) => new Option(folder.name, folder.name)));
  const none = "This server searches no folder: clipref serve --search DIR.";
  byId("about").textContent = folders.map((folder) => `${folder.name}, by ${folder.model}`).join("; ") || none;
}

function start() {
  tell().catch((problem) => {
    byId("about").textContent = problem.message;
  });
}

bind("picture");
byId("shown-picture").addEventListener("taken", () => {
  byId("forget-picture").hidden = false;
  forgetLike();
  run();
});
byId("search").addEventListener("click", run);
for (const id of ["text", "minus", "after", "before", "path", "within", "count"]) {
  byId(id).addEventListener("keydown", (event) => event.key === "Enter" && run());
}
byId("forget-picture").addEventListener("click", forgetPicture);
byId("forget-like").addEventListener("click", forgetLike);
byId("key").addEventListener("change", start);
start();
