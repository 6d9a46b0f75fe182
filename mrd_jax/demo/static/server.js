// SPDX-License-Identifier: Apache-2.0
// Questions to the server. Whatever goes wrong becomes an Error whose message is for people.

export function about() {
  return ask("api/about");
}

// parts: [{kind: "text" | "upload" | "shape", value, weight}]
export function find(parts, { signal }) {
  const query = new URLSearchParams();
  for (const part of parts) {
    query.append(part.kind, part.value);
    query.append("weight", part.weight);
  }
  return ask(`api/find?${query}`, { signal });
}

export function classify(upload, classes) {
  const query = new URLSearchParams({ upload });
  for (const name of classes) query.append("class", name);
  return ask(`api/classify?${query}`);
}

export function upload(file, { signal }) {
  const query = new URLSearchParams({ name: file.name });
  const headers = { "Content-Type": "application/octet-stream" };
  return ask(`api/uploads?${query}`, { method: "POST", body: file, headers, signal });
}

// Points of a cloud: xyz as Int16Array of 32,767 per unit, rgb as Uint8Array.
export async function cloud(address) {
  const data = await (await answer(address)).arrayBuffer();
  const points = data.byteLength / 9;
  return {
    xyz: new Int16Array(data, 0, 3 * points),
    rgb: new Uint8Array(data, 6 * points, 3 * points),
  };
}

async function ask(address, options) {
  return (await answer(address, options)).json();
}

async function answer(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const reason = await response.json().then((body) => body.error, () => response.statusText);
  throw new Error(reason || `The server answers with ${response.status}.`);
}
