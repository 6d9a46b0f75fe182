// SPDX-License-Identifier: Apache-2.0
// Requests to the server. Failures are thrown as Errors whose messages are shown to the user.

export function about() {
  return requestJson("api/about");
}

// parts: [{kind: "text" | "upload" | "shape", value, weight}]
export function find(parts, { signal }) {
  const query = new URLSearchParams();
  for (const part of parts) {
    query.append(part.kind, part.value);
    query.append("weight", part.weight);
  }
  return requestJson(`api/find?${query}`, { signal });
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

// Returns a point cloud: xyz as Int16Array, 32,767 per unit, and rgb as Uint8Array.
export async function cloud(address) {
  const data = await (await request(address)).arrayBuffer();
  const points = data.byteLength / 9;
  return {
    xyz: new Int16Array(data, 0, 3 * points),
    rgb: new Uint8Array(data, 6 * points, 3 * points),
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
