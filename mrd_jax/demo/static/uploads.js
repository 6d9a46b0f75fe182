// SPDX-License-Identifier: Apache-2.0
// The file of the user: its preview, and its classification.

import { byId, element } from "./elements.js";
import { showShape } from "./results.js";
import * as server from "./server.js";

const MEGABYTE = 2 ** 20;
let limits = { upload_bytes: Infinity };
let current = null;

export function setLimits(about) {
  limits = about;
  byId("file").accept = about.upload_types.map((type) => `.${type}`).join(",");
}

// Sends a file and shows it; returns its id and name. onError: called if it cannot be drawn.
export async function send(file, { signal, onError }) {
  if (file.size > limits.upload_bytes) {
    const [size, limit] = [file.size, limits.upload_bytes].map((n) => (n / MEGABYTE).toFixed(0));
    throw new Error(`${file.name} is too large (${size} MB). The limit is ${limit} MB.`);
  }
  current = await server.upload(file, { signal });
  byId("upload").hidden = false;
  byId("upload-name").textContent = current.name;
  byId("upload-faults").textContent = current.faults.join(", ");
  byId("class-scores").replaceChildren();
  const view = byId("upload-view");
  view.replaceChildren();
  if (current.kind === "cloud") {
    showShape(view, `api/uploads/${current.id}`, current, current.name).catch(onError);
  } else {
    view.append(preview(file));
  }
  return current;
}

function preview(file) {
  const source = URL.createObjectURL(file);
  const picture = element("img", { src: source, alt: `Picture ${file.name}` });
  picture.addEventListener("load", () => URL.revokeObjectURL(source));
  // Most browsers cannot show TGA and TIFF.
  picture.addEventListener("error", () => picture.remove());
  return picture;
}

export function hide() {
  current = null;
  byId("upload").hidden = true;
  byId("file").value = "";
}

export async function classify() {
  const names = byId("classes").value.split(",").map((name) => name.trim()).filter(Boolean);
  if (!names.length) throw new Error("Enter at least one class name.");
  const { classes } = await server.classify(current.id, names);
  byId("class-scores").replaceChildren(
    ...classes.map(({ name, score }) =>
      element("li", {}, element("span", { text: score.toFixed(3) }), ` ${name}`),
    ),
  );
}
