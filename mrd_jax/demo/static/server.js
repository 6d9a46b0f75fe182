// SPDX-License-Identifier: Apache-2.0
// Requests to the server. Failures are thrown as Errors whose messages are shown to the user.

import * as glb from "./glb.js";

export function about() {
  return requestJson("api/about");
}

// query: URLSearchParams of `Query.toParams`. Returns {found, total}.
export function find(query, { offset, count, signal }) {
  const page = new URLSearchParams(query);
  page.set("offset", offset);
  page.set("count", count);
  return requestJson(`api/find?${page}`, { signal });
}

// Returns the values of each filter with their numbers of shapes: {creator: [[value, n], …], …}.
export function facets() {
  return requestJson("api/facets");
}

// Returns a shape with its folder, and {name, bytes} of its file in `download`, or null.
export function details(key, { signal }) {
  return requestJson(`api/shapes/${key}`, { signal });
}

// Returns the metadata of at most 1,000 shapes.
export async function list(keys, options = {}) {
  const body = JSON.stringify({ shapes: keys });
  const headers = { "Content-Type": "application/json" };
  const found = await requestJson("api/list", { method: "POST", body, headers, ...options });
  return found.shapes;
}

export function classify(upload, classes) {
  const query = new URLSearchParams({ upload });
  for (const name of classes) query.append("class", name);
  return requestJson(`api/classify?${query}`);
}

export function upload(file, { signal }) {
  const query = new URLSearchParams({ name: file.name });
  const headers = { "Content-Type": "application/octet-stream" };
  return requestJson(`api/uploads?${query}`, { method: "POST", body: file, headers, signal });
}

// Returns what to draw of a shape or an upload: its mesh, or its point cloud.
// place: "api/shapes/KEY" or "api/uploads/ID"; shape: has `mesh`, the bytes of its mesh.
export function shapeData(place, shape) {
  return shape.mesh ? mesh(`${place}/mesh`) : cloud(`${place}/cloud`);
}

async function mesh(address) {
  return glb.parse(await (await request(address)).arrayBuffer());
}

// Returns a point cloud: xyz as Int16Array, 32,767 per unit, and rgb as Uint8Array.
async function cloud(address) {
  const data = await (await request(address)).arrayBuffer();
  const points = data.byteLength / 9;
  return {
    xyz: new Int16Array(data, 0, 3 * points),
    rgb: new Uint8Array(data, 6 * points, 3 * points),
  };
}

// Returns {method, all, classes, keys, xy, codes}: names of classes, keys of the shapes, their
// coordinates (-1 to 1) and the numbers of their classes.
export async function map() {
  const data = await (await request("api/map")).arrayBuffer();
  const size = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
  const { shapes } = header;
  const start = 4 + size;
  const keys = new BigUint64Array(data, start, shapes);
  return {
    ...header,
    keys: Array.from(keys, (key) => key.toString(16).padStart(16, "0")),
    xy: Float32Array.from(new Int16Array(data, start + 8 * shapes, 2 * shapes), (n) => n / 32767),
    codes: new Uint16Array(data, start + 12 * shapes, shapes),
  };
}

async function requestJson(address, options) {
  return (await request(address, options)).json();
}

async function request(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not respond. Is it still running?");
  }
  if (response.ok) return response;
  const message = await response.json().then((body) => body.error, () => response.statusText);
  throw new Error(message || `The server responded with status ${response.status}.`);
}
