// SPDX-License-Identifier: Apache-2.0
// The query: terms, filters and order. It is kept in the address of the page, so that a search can be
// sent to someone else.

export const FIELDS = ["creator", "licence", "label"];
const KINDS = ["text", "upload", "shape"];
const LABELS = { text: (value) => `“${value}”`, upload: () => "a file", shape: () => "a shape" };

export class Query {
  // terms: [{kind: "text" | "upload" | "shape", value, label, weight}]
  constructor() {
    this.terms = [];
    this.clearFilters();
    this.sort = "similarity";
  }

  static fromAddress(address) {
    const query = new Query();
    const params = new URLSearchParams(address);
    const weights = params.getAll("weight").map(Number);
    for (const [kind, value] of params) {
      if (KINDS.includes(kind)) query.add(kind, value, LABELS[kind](value));
    }
    query.terms.forEach((term, place) => {
      if (Number.isFinite(weights[place])) term.weight = weights[place];
    });
    for (const field of FIELDS) query.filters[field] = params.getAll(field);
    query.filters.folder = params.get("folder") ?? "";
    query.sort = params.get("sort") ?? "similarity";
    return query;
  }

  toParams() {
    const params = new URLSearchParams();
    for (const { kind, value, weight } of this.terms) {
      params.append(kind, value);
      params.append("weight", weight);
    }
    for (const field of FIELDS) {
      for (const value of this.filters[field]) params.append(field, value);
    }
    if (this.filters.folder) params.set("folder", this.filters.folder);
    if (this.sort !== "similarity") params.set("sort", this.sort);
    return params;
  }

  // Adds a term and returns it; a term with the same kind and value gets the weight instead.
  add(kind, value, label, weight = 1) {
    let term = this.terms.find((other) => other.kind === kind && other.value === value);
    if (!term) this.terms.push((term = { kind, value }));
    return Object.assign(term, { label, weight });
  }

  remove(term) {
    this.terms = this.terms.filter((other) => other !== term);
  }

  removeKind(kind) {
    this.terms = this.terms.filter((term) => term.kind !== kind);
  }

  clearFilters() {
    this.filters = { creator: [], licence: [], label: [], folder: "" };
  }

  get filterCount() {
    const lists = FIELDS.map((field) => this.filters[field].length);
    return lists.reduce((sum, n) => sum + n, this.filters.folder ? 1 : 0);
  }

  get isEmpty() {
    return !this.terms.length && !this.filterCount && this.sort === "similarity";
  }

  describe() {
    const wanted = this.terms.filter((term) => term.weight >= 0).map((term) => term.label);
    const unwanted = this.terms.filter((term) => term.weight < 0).map((term) => term.label);
    let text = wanted.join(" and ");
    if (unwanted.length) text += `${text ? " " : ""}without ${unwanted.join(" and ")}`;
    return text;
  }
}
