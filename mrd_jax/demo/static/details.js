// SPDX-License-Identifier: Apache-2.0
// The large view of a shape: what is known of it, its file and its neighbours.

import { button, byId, element } from "./elements.js";
import { picture, showShape } from "./results.js";
import * as server from "./server.js";

const NEIGHBOURS = 8;
const FACTS = [
  ["label", "Class"],
  ["creator", "Creator"],
  ["licence", "Licence"],
  ["id", "Source"],
];

export class Details {
  // onMoreLike, onAdd: called with the shape; onChange: called when it is opened, closed, or shows
  // another shape; onError: called with errors.
  constructor({ onMoreLike, onAdd, onChange, onError }) {
    Object.assign(this, { onChange, onError });
    this.dialog = byId("details");
    this.current = new AbortController();
    byId("close-details").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => {
      this.current.abort();
      byId("details-view").replaceChildren();
      onChange();
    });
    // A click on the backdrop is one on the dialog itself, not on its content.
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
    for (const [id, action] of [["details-more", onMoreLike], ["details-add", onAdd]]) {
      byId(id).addEventListener("click", () => {
        const { shape } = this;
        this.dialog.close();
        action(shape);
      });
    }
  }

  get key() {
    return this.dialog.open ? this.shape?.key : undefined;
  }

  async open(key) {
    this.current.abort();
    this.current = new AbortController();
    const { signal } = this.current;
    try {
      this.shape = await server.details(key, { signal });
      this.show(this.shape);
      if (!this.dialog.open) this.dialog.showModal();
      this.dialog.scrollTop = 0;
      this.onChange();
      const view = byId("details-view");
      await showShape(view, `api/shapes/${key}`, this.shape, this.shape.title);
      await this.showNeighbours(key, signal);
    } catch (error) {
      if (error.name !== "AbortError") this.onError(error);
    }
  }

  show(shape) {
    byId("details-title").textContent = shape.title;
    byId("details-view").replaceChildren(picture(shape));
    byId("details-facts").replaceChildren(
      ...FACTS.filter(([field]) => shape[field]).flatMap(([field, name]) => [
        element("dt", { text: name }),
        element("dd", { text: shape[field] }),
      ]),
    );
    byId("details-download").replaceChildren(download(shape));
    byId("details-neighbours").replaceChildren();
  }

  async showNeighbours(key, signal) {
    const query = new URLSearchParams({ shape: key });
    const { found } = await server.find(query, { offset: 0, count: NEIGHBOURS, signal });
    byId("details-neighbours").replaceChildren(
      ...found.map((shape) => {
        const open = button("", () => this.open(shape.key), { className: "thumbnail" });
        open.append(picture({ ...shape, title: "" }), element("span", { text: shape.title }));
        open.querySelector("img").alt = "";
        return element("li", {}, open);
      }),
    );
  }
}

function download({ key, download: file, reason }) {
  if (!file) return element("span", { className: "muted", text: reason });
  const size = file.bytes < 1e5 ? `${Math.ceil(file.bytes / 1e3)} kB` : `${(file.bytes / 1e6).toFixed(1)} MB`;
  const what = file.source ? "" : ", reduced";
  const link = element("a", { href: `api/shapes/${key}/file`, text: `Download ${file.name}` });
  link.download = file.name;
  return element("span", {}, link, ` (${size}${what})`);
}
