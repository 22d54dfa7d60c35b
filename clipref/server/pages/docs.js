// The page /docs, made of openapi.json.
"use strict";

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function fields(schema) {
  const list = element("dl");
  for (const [name, field] of Object.entries(schema.properties || {})) {
    const needed = (schema.required || []).includes(name) ? ", required" : "";
    list.append(element("dt", name), element("dd", `${field.description || field.type || ""}${needed}`));
  }
  return list;
}

function section(method, path, route) {
  const made = element("section");
  made.append(element("h2", `${method.toUpperCase()} ${path}`), element("p", route.description || route.summary));
  for (const [kind, content] of Object.entries(route.requestBody?.content || {})) {
    made.append(element("h3", `Takes ${kind}`), fields(content.schema));
    if (content.example) made.append(element("pre", JSON.stringify(content.example, null, 2)));
  }
  made.append(element("h3", "Answers"));
  const list = element("dl");
  for (const [status, answer] of Object.entries(route.responses)) {
    list.append(element("dt", status), element("dd", answer.description));
  }
  made.append(list);
  return made;
}

async function show() {
  const found = await (await fetch("openapi.json")).json();
  document.getElementById("about").textContent = found.info.description;
  for (const [path, methods] of Object.entries(found.paths)) {
    for (const [method, route] of Object.entries(methods)) {
      document.getElementById("routes").append(section(method, path, route));
    }
  }
}

show().catch((problem) => {
  document.getElementById("about").textContent = problem.message;
});
