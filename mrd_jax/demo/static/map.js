// SPDX-License-Identifier: Apache-2.0
// The map of the index: moving in it, selecting shapes by a lasso, and the list of the selected ones.

import * as csv from "./csv.js";
import { byId, element } from "./elements.js";
import { COLOURED, MapView, colourOf } from "./map_view.js";
import * as server from "./server.js";

const STEP = 60; // pixels per key press
const MOVES = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
const ZOOM_STEP = 1.5;
const ZOOMS = { "+": ZOOM_STEP, "=": ZOOM_STEP, "-": 1 / ZOOM_STEP, _: 1 / ZOOM_STEP };
const ZOOM_SPEED = 0.002; // logarithm of the factor per pixel of scrolling
const CLICK = 4; // pixels that a pointer may move in a click
const BATCH = 1_000; // shapes per request of the CSV file

// list: CardList of the selected shapes; onOpen: called with the key of a point that was clicked.
export async function openMap({ list, onOpen, onError }) {
  const data = await server.map();
  new IndexMap(data, { list, onOpen, onError });
}

class IndexMap {
  constructor(data, { list, onOpen, onError }) {
    Object.assign(this, { data, list, onOpen, onError });
    this.canvas = byId("map-canvas");
    this.view = new MapView(this.canvas, data, () => this.describe());
    this.pointers = new Map();
    this.keys = [];
    this.showLegend();
    this.describe();
    const on = (type, action, options) => this.canvas.addEventListener(type, action, options);
    on("pointerdown", (event) => this.grab(event));
    on("pointermove", (event) => this.drag(event));
    on("lostpointercapture", (event) => this.release(event));
    on("keydown", (event) => this.key(event));
    on("wheel", (event) => this.scroll(event), { passive: false });
    const click = (id, action) => byId(id).addEventListener("click", action);
    click("map-in", () => this.view.zoom(ZOOM_STEP));
    click("map-out", () => this.view.zoom(1 / ZOOM_STEP));
    click("map-all", () => this.view.reset());
    click("map-lasso", () => this.setLasso(!this.lasso));
    click("map-select", () => this.select(this.view.inSight()));
    click("map-csv", () => this.saveCsv());
  }

  describe() {
    const { shapes, all, method } = this.data;
    const sampled = shapes < all ? ` of ${all.toLocaleString("en")}` : "";
    const count = shapes.toLocaleString("en");
    byId("map-about").textContent =
      `${count}${sampled} shapes by ${method} of their embeddings: near means similar. ` +
      `${this.view.inSight().length.toLocaleString("en")} in sight.`;
  }

  showLegend() {
    const names = this.data.classes.slice(0, COLOURED);
    const items = names.map((name, code) => {
      const mark = element("span", { className: "mark" });
      mark.style.background = colourOf(code);
      return element("li", {}, mark, ` ${name}`);
    });
    byId("map-legend").replaceChildren(...items);
  }

  setLasso(on) {
    this.lasso = on;
    byId("map-lasso").setAttribute("aria-pressed", on);
    this.canvas.classList.toggle("lasso", on);
  }

  position(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  grab(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.position(event));
    this.pressed = this.position(event);
    this.moved = false;
    if (this.lasso) this.view.outline = [this.pressed];
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [x, y] = this.position(event);
    this.moved ||= Math.hypot(x - this.pressed[0], y - this.pressed[1]) > CLICK;
    const spread = this.spread();
    this.pointers.set(event.pointerId, [x, y]);
    if (spread) this.view.zoom(this.spread() / spread, x, y);
    else if (this.lasso) {
      this.view.outline.push([x, y]);
      this.view.draw();
    } else this.view.pan(x - before[0], y - before[1]);
  }

  // Returns the distance of two pointers in pixels, 0 if there is one pointer.
  spread() {
    const [first, second = first] = this.pointers.values();
    return Math.hypot(first[0] - second[0], first[1] - second[1]);
  }

  release(event) {
    const position = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    const { outline } = this.view;
    this.view.outline = [];
    if (!this.moved && position) {
      const number = this.view.at(...position);
      if (number >= 0) this.onOpen(this.data.keys[number]);
    } else if (this.lasso && outline.length > 2) {
      const inside = this.view.inSight().filter((n) => isInside(this.view.place(n), outline));
      this.setLasso(false);
      this.select(inside);
    }
    this.view.draw();
  }

  // Zooms only with Ctrl or ⌘, as over a shape, so that a plain wheel scrolls the page.
  scroll(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.view.zoom(Math.exp(-ZOOM_SPEED * event.deltaY), ...this.position(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // shortcuts of the browser
    if (MOVES[event.key]) this.view.pan(...MOVES[event.key]);
    else if (ZOOMS[event.key]) this.view.zoom(ZOOMS[event.key]);
    else return;
    event.preventDefault();
  }

  // Lists shapes by their numbers on the map.
  async select(numbers) {
    this.view.select(numbers);
    this.keys = numbers.map((number) => this.data.keys[number]);
    const total = this.keys.length;
    byId("map-selected").textContent = `${total.toLocaleString("en")} shapes selected.`;
    byId("map-csv").hidden = !total;
    try {
      const { keys } = this;
      await this.list.show(async ({ offset, count, signal }) => {
        const found = await server.list(keys.slice(offset, offset + count), { signal });
        return { found, total };
      });
    } catch (error) {
      this.onError(error);
    }
  }

  async saveCsv() {
    try {
      const shapes = [];
      for (let start = 0; start < this.keys.length; start += BATCH) {
        shapes.push(...(await server.list(this.keys.slice(start, start + BATCH))));
      }
      csv.save(csv.toCsv(shapes), "shapes.csv");
    } catch (error) {
      this.onError(error);
    }
  }
}

// Returns whether a point is inside of a polygon: a ray from it crosses an odd number of edges.
function isInside([x, y], polygon) {
  let inside = false;
  let [x0, y0] = polygon.at(-1);
  for (const [x1, y1] of polygon) {
    if (y0 > y !== y1 > y && x < x0 + ((y - y0) / (y1 - y0)) * (x1 - x0)) inside = !inside;
    [x0, y0] = [x1, y1];
  }
  return inside;
}
