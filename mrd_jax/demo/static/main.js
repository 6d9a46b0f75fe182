// SPDX-License-Identifier: Apache-2.0
// What is searched for, and what happens when that changes.

import { card, element, showCloud } from "./results.js";
import * as server from "./server.js";

const at = (id) => document.getElementById(id);
const MEGABYTE = 2 ** 20;

// Parts of the question by kind; a file and a shape of the index exclude each other.
const parts = new Map();
let limits = { upload_bytes: Infinity, upload_types: [] };
let running = new AbortController();
let given = null;

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  takeWords();
  search();
});
at("file").addEventListener("change", (event) => takeFile(event.target.files[0]));
at("naming").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(nameIt);
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
  takeFile(event.dataTransfer.files[0]);
});
guarded(async () => {
  limits = await server.about();
  at("about").textContent =
    `By words, by a picture, or by another shape, among ${limits.shapes.toLocaleString("en")} shapes.`;
  at("file").accept = limits.upload_types.map((type) => `.${type}`).join(",");
});

function takeWords() {
  const words = at("words").value.trim();
  if (words) setPart("text", words, `“${words}”`);
  else parts.delete("text");
}

// Keeps the weight that a part of this kind had.
function setPart(kind, value, label) {
  parts.set(kind, { kind, value, label, weight: parts.get(kind)?.weight ?? 1 });
}

function takeFile(file) {
  if (!file) return;
  guarded(async (signal) => {
    if (file.size > limits.upload_bytes) {
      const [size, most] = [file.size, limits.upload_bytes].map((n) => (n / MEGABYTE).toFixed(0));
      throw new Error(`${file.name} has ${size} MB: at most ${most} MB are taken.`);
    }
    say(`Reading ${file.name} …`);
    const uploaded = await server.upload(file, { signal });
    parts.delete("shape");
    takeWords();
    setPart("upload", uploaded.id, uploaded.name);
    showGiven(uploaded, file);
    await find(signal);
  });
}

function showGiven(uploaded, file) {
  given = uploaded;
  at("given").hidden = false;
  at("given-name").textContent = uploaded.name;
  at("given-faults").textContent = uploaded.faults.join(", ");
  at("named").replaceChildren();
  const view = at("given-view");
  view.replaceChildren();
  if (uploaded.kind === "cloud") {
    guarded(() => showCloud(view, `api/uploads/${uploaded.id}/cloud`, uploaded.name), null);
    return;
  }
  const source = URL.createObjectURL(file);
  const picture = element("img", { src: source, alt: `Picture ${uploaded.name}` });
  picture.addEventListener("load", () => URL.revokeObjectURL(source));
  picture.addEventListener("error", () => picture.remove()); // TGA and TIFF, in most browsers
  view.append(picture);
}

function moreLike(shape) {
  parts.clear();
  at("words").value = "";
  forgetFile();
  setPart("shape", shape.number, `shapes like ${shape.title}`);
  search();
}

function forgetFile() {
  parts.delete("upload");
  given = null;
  at("given").hidden = true;
  at("file").value = "";
}

function removePart(kind) {
  parts.delete(kind);
  if (kind === "text") at("words").value = "";
  if (kind === "upload") forgetFile();
  at("words").focus();
  search();
}

function search() {
  guarded(find);
}

async function find(signal) {
  showParts();
  await showFound(signal);
}

async function showFound(signal) {
  if (!parts.size) {
    at("results").replaceChildren();
    at("turning").hidden = true;
    say("Type words, or choose a picture or a mesh.");
    return;
  }
  at("results").setAttribute("aria-busy", "true");
  const answer = await server.find([...parts.values()], { signal });
  at("results").replaceChildren(...answer.found.map((shape) => card(shape, { onAlike: moreLike })));
  const what = [...parts.values()].map((part) => part.label).join(" and ");
  say(`${answer.found.length} shapes for ${what}, the most alike first.`);
}

function showParts() {
  const mixed = parts.size > 1;
  at("mix").hidden = !parts.size;
  at("parts").replaceChildren(...[...parts.values()].map((part) => partItem(part, mixed)));
}

function partItem(part, mixed) {
  const item = element("li", {}, element("span", { text: part.label }));
  if (mixed) {
    const slider = element("input", { type: "range", min: -1, max: 1, step: 0.1 });
    slider.value = part.weight;
    const shown = element("output", { text: part.weight });
    slider.addEventListener("input", () => {
      part.weight = Number(slider.value);
      shown.textContent = part.weight;
    });
    // The slider stays, so that it keeps the focus.
    slider.addEventListener("change", () => guarded(showFound));
    const label = element("label", {}, element("span", { text: "weight" }), slider, shown);
    slider.setAttribute("aria-label", `Weight of ${part.label}`);
    item.append(label);
  }
  const remove = element("button", { type: "button", text: "Remove" });
  remove.setAttribute("aria-label", `Remove ${part.label}`);
  remove.addEventListener("click", () => removePart(part.kind));
  item.append(remove);
  return item;
}

async function nameIt() {
  const classes = at("classes").value.split(",").map((name) => name.trim()).filter(Boolean);
  if (!classes.length) throw new Error("Name some classes to choose among.");
  const answer = await server.classify(given.id, classes);
  at("named").replaceChildren(
    ...answer.classes.map((one) =>
      element("li", {}, element("span", { text: one.score.toFixed(3) }), ` ${one.name}`),
    ),
  );
}

function say(text) {
  at("status").textContent = text;
}

// Runs a task instead of the one that runs; what goes wrong is said on the page.
async function guarded(task, controller = new AbortController()) {
  if (controller) {
    running.abort();
    running = controller;
  }
  at("error").textContent = "";
  try {
    await task(controller?.signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    say("");
    at("error").textContent = error.message;
  } finally {
    if (!controller || controller === running) at("results").setAttribute("aria-busy", "false");
  }
}
