// SPDX-License-Identifier: Apache-2.0
// Filters by class, creator, licence and folder, and the order of the results.

import { byId, element } from "./elements.js";
import { FIELDS } from "./query.js";
import * as server from "./server.js";

const TITLES = { label: "Class", creator: "Creator", licence: "Licence" };

export class FilterPanel {
  // onChange: called when the user has changed a filter or the order of the query.
  constructor(onChange, onError) {
    this.onChange = onChange;
    this.onError = onError;
    this.facets = null;
    this.query = null;
    byId("filters").addEventListener("toggle", () => {
      if (byId("filters").open) this.load();
    });
    byId("clear-filters").addEventListener("click", () => {
      this.query.clearFilters();
      this.draw();
      this.onChange();
    });
    byId("sort").addEventListener("change", () => {
      this.query.sort = byId("sort").value;
      this.onChange();
    });
    byId("folder").addEventListener("change", () => {
      this.query.filters.folder = byId("folder").value;
      this.showCount();
      this.onChange();
    });
  }

  show(query) {
    this.query = query;
    byId("sort").value = query.sort;
    if (this.facets) this.draw();
    else if (query.filterCount) byId("filters").open = true; // loads the values
    this.showCount();
  }

  showCount() {
    const count = this.query.filterCount;
    byId("filter-count").textContent = count ? `(${count})` : "";
    byId("clear-filters").hidden = !count;
  }

  // The values are loaded when they are first seen: the server reads all metadata for them.
  async load() {
    if (this.facets) return;
    try {
      this.facets = await server.facets();
    } catch (error) {
      this.onError(error);
      return;
    }
    this.draw();
  }

  draw() {
    const lists = FIELDS.filter((field) => this.facets[field].length).map((field) => this.list(field));
    byId("facets").replaceChildren(...lists);
    const folders = this.facets.folder.map(([value, count]) =>
      element("option", { value, text: `${value} (${count})` }),
    );
    byId("folder").replaceChildren(element("option", { value: "", text: "all folders" }), ...folders);
    byId("folder").value = this.query.filters.folder;
    byId("folder-field").hidden = !folders.length;
    this.showCount();
  }

  list(field) {
    const chosen = this.query.filters[field];
    const boxes = this.facets[field].map(([value, count]) => {
      const box = element("input", { type: "checkbox", checked: chosen.includes(value) });
      box.addEventListener("change", () => {
        const others = this.query.filters[field].filter((other) => other !== value);
        this.query.filters[field] = box.checked ? [...others, value] : others;
        this.showCount();
        this.onChange();
      });
      return element("label", {}, box, ` ${value} (${count})`);
    });
    return element(
      "fieldset",
      {},
      element("legend", { text: TITLES[field] }),
      element("div", { className: "values" }, ...boxes),
    );
  }
}
