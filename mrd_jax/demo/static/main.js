// SPDX-License-Identifier: Apache-2.0
// Connects the parts of the page: what the user does, the query, and what is shown.

import { Details } from "./details.js";
import { byId } from "./elements.js";
import { FilterPanel } from "./filters.js";
import { Query } from "./query.js";
import { CardList } from "./results.js";
import * as server from "./server.js";
import { showTerms } from "./terms.js";
import * as uploads from "./uploads.js";

const EXCLUDED = -0.5; // weight of a term that is excluded
const MAX_TERMS = 8; // the limit of the server
let query = new Query();
let fieldTerm = null; // the term that the text field shows
let current = new AbortController();
let mapOpened = false;
let restoring = false; // whether the page is being brought into the state of its address

const actions = { onMoreLike: moreLike, onOpen: (shape) => details.open(shape.key) };
const results = new CardList(byId("results"), byId("more"), { actions, onError: showError });
const mapList = new CardList(byId("map-list"), byId("map-more"), { actions, onError: showError });
const filterPanel = new FilterPanel(search, showError);
const details = new Details({
  onMoreLike: moreLike,
  onAdd: (shape) => addTerm("shape", shape.key, `shapes like ${shape.title}`, 1),
  onChange: saveAddress,
  onError: showError,
});

const on = (id, type, action) => byId(id).addEventListener(type, action);
on("query-form", "submit", (event) => {
  event.preventDefault();
  readText();
  search();
});
on("add-term", "click", () => addText(1));
on("exclude-term", "click", () => addText(EXCLUDED));
on("file", "change", (event) => sendFile(event.target.files[0]));
on("classify-form", "submit", (event) => {
  event.preventDefault();
  run(uploads.classify);
});
on("map-toggle", "click", () => showMap(byId("map").hidden));
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
window.addEventListener("popstate", () => run(readAddress));
run(async (signal) => {
  const about = await server.about();
  const shapes = about.shapes.toLocaleString("en");
  byId("about").textContent = `Search ${shapes} shapes by text, a picture or another shape.`;
  uploads.setLimits(about);
  await readAddress(signal);
});

// Makes the text in the field a term: in place of the one that it showed before, if any.
function readText() {
  const text = byId("words").value.trim();
  if (!text || text === fieldTerm?.value) return;
  const weight = fieldTerm?.weight ?? 1;
  if (fieldTerm) query.remove(fieldTerm);
  fieldTerm = query.add("text", text, `“${text}”`, weight);
}

// Makes the text in the field a term of its own, and empties the field for another one.
function addText(weight) {
  const text = byId("words").value.trim();
  if (text) {
    if (fieldTerm && fieldTerm.value === text) query.remove(fieldTerm);
    addTerm("text", text, `“${text}”`, weight);
  }
  fieldTerm = null;
  byId("words").value = "";
  byId("words").focus();
}

function addTerm(kind, value, label, weight) {
  if (query.terms.length >= MAX_TERMS) {
    showError(new Error(`A query has at most ${MAX_TERMS} terms. Remove one first.`));
    return;
  }
  query.add(kind, value, label, weight);
  search();
}

function sendFile(file) {
  if (!file) return;
  run(async (signal) => {
    setStatus(`Reading ${file.name} …`);
    const upload = await uploads.send(file, { signal, onError: showError });
    query.removeKind("shape");
    query.removeKind("upload");
    readText();
    query.add("upload", upload.id, upload.name);
    await find(signal);
  });
}

// Searches for the neighbours of a shape; the filters stay.
function moreLike(shape) {
  query.terms = [];
  query.sort = "similarity";
  clearField();
  uploads.hide();
  query.add("shape", shape.key, `shapes like ${shape.title}`);
  search();
  window.scrollTo({ top: 0 });
}

function clearField() {
  fieldTerm = null;
  byId("words").value = "";
}

function removeTerm(term) {
  query.remove(term);
  if (term === fieldTerm) clearField();
  if (term.kind === "upload") uploads.hide();
  byId("words").focus();
  search();
}

function search() {
  run(find);
}

async function find(signal) {
  saveAddress();
  await show(signal);
}

async function show(signal) {
  showTerms(query, { onWeight: () => run(showResults), onRemove: removeTerm });
  filterPanel.show(query);
  await showResults(signal);
}

async function showResults(signal) {
  saveAddress();
  if (query.isEmpty) {
    results.clear();
    byId("view-help").hidden = true;
    setStatus("Enter text, or choose a picture or a mesh.");
    return;
  }
  byId("results").setAttribute("aria-busy", "true");
  const params = query.toParams();
  const total = await results.show((page) => server.find(params, page), signal);
  setStatus(summary(total));
}

function summary(total) {
  const filtered = query.filterCount ? ", filtered" : "";
  const order = byId("sort").selectedOptions[0]?.textContent ?? "";
  const count = total.toLocaleString("en");
  if (!query.terms.length) return `${count} shapes${filtered}.`;
  const sorted = query.sort === "similarity" ? "most similar first" : `the most similar, by ${order}`;
  return `${count} results for ${query.describe()}${filtered}, ${sorted}.`;
}

// The address of the page has the query, whether the map is shown, and the shape in the large view.
function saveAddress() {
  if (restoring) return;
  const params = query.toParams();
  if (!byId("map").hidden) params.set("map", "1");
  if (details.key) params.set("view", details.key);
  const address = params.size ? `?${params}` : location.pathname;
  if (location.search !== (params.size ? `?${params}` : "")) history.pushState(null, "", address);
}

async function readAddress(signal) {
  restoring = true;
  try {
    await restore(signal);
  } finally {
    restoring = false;
  }
}

async function restore(signal) {
  query = Query.fromAddress(location.search);
  fieldTerm = query.terms.find((term) => term.kind === "text") ?? null;
  byId("words").value = fieldTerm?.value ?? "";
  await nameShapes(signal);
  const params = new URLSearchParams(location.search);
  const [wantsMap, viewed] = [params.has("map"), params.get("view")];
  if (wantsMap === byId("map").hidden) showMap(wantsMap); // may take a minute
  if (query.isEmpty) {
    showTerms(query, {});
    filterPanel.show(query);
    results.clear();
    setStatus("");
  } else await show(signal);
  if (viewed) await details.open(viewed);
  else byId("details").close();
}

// Labels the shapes of a query that comes from an address.
async function nameShapes(signal) {
  const terms = query.terms.filter((term) => term.kind === "shape");
  if (!terms.length) return;
  const found = await server.list(terms.map((term) => term.value), { signal });
  for (const term of terms) {
    const shape = found.find(({ key }) => key === term.value);
    if (shape) term.label = `shapes like ${shape.title}`;
  }
}

async function showMap(shown) {
  byId("map").hidden = !shown;
  byId("map-toggle").setAttribute("aria-expanded", shown);
  saveAddress();
  if (!shown || mapOpened) return;
  mapOpened = true;
  byId("map-about").textContent = "Drawing the map …";
  try {
    const { openMap } = await import("./map.js");
    await openMap({ list: mapList, onOpen: (key) => details.open(key), onError: showError });
  } catch (error) {
    mapOpened = false;
    byId("map-about").textContent = "";
    showError(error);
  }
}

function setStatus(text) {
  byId("status").textContent = text;
}

function showError(error) {
  byId("error").textContent = error.message;
}

// Runs a task and shows its errors on the page; aborts the current task.
async function run(task) {
  current.abort();
  const controller = (current = new AbortController());
  byId("error").textContent = "";
  try {
    await task(controller.signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    setStatus("");
    showError(error);
  } finally {
    if (controller === current) byId("results").setAttribute("aria-busy", "false");
  }
}
