// SPDX-License-Identifier: Apache-2.0
// The query, and the requests that follow when it changes.

import { card, element, showCloud } from "./results.js";
import * as server from "./server.js";

const byId = (id) => document.getElementById(id);
const MEGABYTE = 2 ** 20;

// Parts of the query by kind: "text", and either "upload" or "shape".
const parts = new Map();
let limits = { upload_bytes: Infinity, upload_types: [] };
let current = new AbortController();
let upload = null;

byId("query-form").addEventListener("submit", (event) => {
  event.preventDefault();
  readText();
  search();
});
byId("file").addEventListener("change", (event) => sendFile(event.target.files[0]));
byId("classify-form").addEventListener("submit", (event) => {
  event.preventDefault();
  run(classify);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  sendFile(event.dataTransfer.files[0]);
});
run(async () => {
  limits = await server.about();
  const shapes = limits.shapes.toLocaleString("en");
  byId("about").textContent = `Search ${shapes} shapes by text, a picture or another shape.`;
  byId("file").accept = limits.upload_types.map((type) => `.${type}`).join(",");
});

function readText() {
  const text = byId("words").value.trim();
  if (text) setPart("text", text, `“${text}”`);
  else parts.delete("text");
}

// Replaces the part of a kind; its weight is kept.
function setPart(kind, value, label) {
  parts.set(kind, { kind, value, label, weight: parts.get(kind)?.weight ?? 1 });
}

function sendFile(file) {
  if (!file) return;
  run(async (signal) => {
    if (file.size > limits.upload_bytes) {
      const [size, limit] = [file.size, limits.upload_bytes].map((n) => (n / MEGABYTE).toFixed(0));
      throw new Error(`${file.name} is too large (${size} MB). The limit is ${limit} MB.`);
    }
    setStatus(`Reading ${file.name} …`);
    const received = await server.upload(file, { signal });
    parts.delete("shape");
    readText();
    setPart("upload", received.id, received.name);
    showUpload(received, file);
    await find(signal);
  });
}

function showUpload(received, file) {
  upload = received;
  byId("upload").hidden = false;
  byId("upload-name").textContent = upload.name;
  byId("upload-faults").textContent = upload.faults.join(", ");
  byId("class-scores").replaceChildren();
  const view = byId("upload-view");
  view.replaceChildren();
  if (upload.kind === "cloud") {
    run(() => showCloud(view, `api/uploads/${received.id}/cloud`, received.name), null);
    return;
  }
  const source = URL.createObjectURL(file);
  const picture = element("img", { src: source, alt: `Picture ${upload.name}` });
  picture.addEventListener("load", () => URL.revokeObjectURL(source));
  // Most browsers cannot show TGA and TIFF.
  picture.addEventListener("error", () => picture.remove());
  view.append(picture);
}

function moreLike(shape) {
  parts.clear();
  byId("words").value = "";
  removeUpload();
  setPart("shape", shape.key, `shapes like ${shape.title}`);
  search();
}

function removeUpload() {
  parts.delete("upload");
  upload = null;
  byId("upload").hidden = true;
  byId("file").value = "";
}

function removePart(kind) {
  parts.delete(kind);
  if (kind === "text") byId("words").value = "";
  if (kind === "upload") removeUpload();
  byId("words").focus();
  search();
}

function search() {
  run(find);
}

async function find(signal) {
  showParts();
  await showResults(signal);
}

async function showResults(signal) {
  if (!parts.size) {
    byId("results").replaceChildren();
    byId("view-help").hidden = true;
    setStatus("Enter text, or choose a picture or a mesh.");
    return;
  }
  byId("results").setAttribute("aria-busy", "true");
  const { found } = await server.find([...parts.values()], { signal });
  byId("results").replaceChildren(...found.map((shape) => card(shape, { onMoreLike: moreLike })));
  const query = [...parts.values()].map((part) => part.label).join(" and ");
  setStatus(`${found.length} results for ${query}, most similar first.`);
}

function showParts() {
  const weighted = parts.size > 1;
  byId("query").hidden = !parts.size;
  byId("parts").replaceChildren(...[...parts.values()].map((part) => partItem(part, weighted)));
}

function partItem(part, weighted) {
  const item = element("li", {}, element("span", { text: part.label }));
  if (weighted) {
    const slider = element("input", { type: "range", min: -1, max: 1, step: 0.1 });
    slider.value = part.weight;
    const output = element("output", { text: part.weight });
    slider.addEventListener("input", () => {
      part.weight = Number(slider.value);
      output.textContent = part.weight;
    });
    // Updates only the results: the slider has to keep the focus.
    slider.addEventListener("change", () => run(showResults));
    const label = element("label", {}, element("span", { text: "weight" }), slider, output);
    slider.setAttribute("aria-label", `Weight of ${part.label}`);
    item.append(label);
  }
  const remove = element("button", { type: "button", text: "Remove" });
  remove.setAttribute("aria-label", `Remove ${part.label}`);
  remove.addEventListener("click", () => removePart(part.kind));
  item.append(remove);
  return item;
}

async function classify() {
  const names = byId("classes").value.split(",").map((name) => name.trim()).filter(Boolean);
  if (!names.length) throw new Error("Enter at least one class name.");
  const { classes } = await server.classify(upload.id, names);
  byId("class-scores").replaceChildren(
    ...classes.map(({ name, score }) =>
      element("li", {}, element("span", { text: score.toFixed(3) }), ` ${name}`),
    ),
  );
}

function setStatus(text) {
  byId("status").textContent = text;
}

// Runs a task and shows its errors on the page. Aborts the current task, unless `controller` is
// null.
async function run(task, controller = new AbortController()) {
  if (controller) {
    current.abort();
    current = controller;
  }
  byId("error").textContent = "";
  try {
    await task(controller?.signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    setStatus("");
    byId("error").textContent = error.message;
  } finally {
    if (!controller || controller === current) byId("results").setAttribute("aria-busy", "false");
  }
}
