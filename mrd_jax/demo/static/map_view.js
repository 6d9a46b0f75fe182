// SPDX-License-Identifier: Apache-2.0
// Draws the map of the index on a canvas: points, and pictures where there is room for them.

const COLOURS = ["#1f77b4", "#d95f02", "#2a9d4a", "#c2307a", "#7a5bc7", "#8c6d1f", "#0b9aa5", "#c23b3b"];
const OTHER = "#808890";
const MAX_PICTURES = 80; // more points in sight are drawn without pictures
const MAX_KEPT = 400; // pictures in memory
const PICTURE = 44; // side in pixels
const MAX_SCALE = 400;
const MARGIN = 0.94; // of the canvas that the whole map fills

export class MapView {
  // data: of `server.map`; onChange: called after the part in sight has changed.
  constructor(canvas, data, onChange) {
    Object.assign(this, { canvas, data, onChange });
    this.pictures = new Map();
    this.selected = new Set();
    this.outline = []; // corners of the lasso while it is drawn, in pixels
    this.centre = [0, 0];
    this.scale = 1; // relative to the view of the whole map
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  reset() {
    this.centre = [0, 0];
    this.scale = 1;
    this.changed();
  }

  changed() {
    this.draw();
    this.onChange();
  }

  get unit() {
    const { clientWidth, clientHeight } = this.canvas;
    return (Math.min(clientWidth, clientHeight) / 2) * MARGIN * this.scale;
  }

  // Returns the position of a point in pixels.
  place(number) {
    const { clientWidth, clientHeight } = this.canvas;
    const [x, y] = [this.data.xy[2 * number], this.data.xy[2 * number + 1]];
    return [
      clientWidth / 2 + (x - this.centre[0]) * this.unit,
      clientHeight / 2 - (y - this.centre[1]) * this.unit,
    ];
  }

  pan(x, y) {
    this.centre[0] -= x / this.unit;
    this.centre[1] += y / this.unit;
    this.changed();
  }

  // Zooms by a factor; the point at (x, y) stays where it is.
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const before = this.unit;
    this.scale = Math.min(MAX_SCALE, Math.max(1, this.scale * factor));
    const change = 1 / before - 1 / this.unit;
    this.centre[0] += (x - this.canvas.clientWidth / 2) * change;
    this.centre[1] -= (y - this.canvas.clientHeight / 2) * change;
    this.changed();
  }

  // Returns the numbers of the points in sight.
  inSight() {
    const { clientWidth, clientHeight } = this.canvas;
    const found = [];
    for (let number = 0; number < this.data.shapes; number++) {
      const [x, y] = this.place(number);
      if (x >= 0 && y >= 0 && x < clientWidth && y < clientHeight) found.push(number);
    }
    return found;
  }

  // Returns the number of the point at a position, -1 if there is none.
  at(x, y) {
    let [best, nearest] = [-1, PICTURE / 2];
    for (const number of this.inSight()) {
      const [px, py] = this.place(number);
      const distance = Math.max(Math.abs(px - x), Math.abs(py - y));
      if (distance < nearest) [best, nearest] = [number, distance];
    }
    return best;
  }

  select(numbers) {
    this.selected = new Set(numbers);
    this.draw();
  }

  draw() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.paint();
    });
  }

  paint() {
    const { clientWidth, clientHeight } = this.canvas;
    const ratio = window.devicePixelRatio;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const numbers = this.inSight();
    const size = numbers.length > 20_000 ? 2 : numbers.length > 2_000 ? 4 : 7;
    for (const number of numbers) this.paintPoint(context, number, size);
    if (numbers.length <= MAX_PICTURES) {
      for (const number of numbers) this.paintPicture(context, number);
    }
    if (this.outline.length > 1) this.paintOutline(context);
  }

  paintPoint(context, number, size) {
    const [x, y] = this.place(number);
    if (this.selected.has(number)) {
      context.fillStyle = getComputedStyle(this.canvas).color;
      context.fillRect(x - size / 2 - 2, y - size / 2 - 2, size + 4, size + 4);
    }
    context.fillStyle = colourOf(this.data.codes[number]);
    context.fillRect(x - size / 2, y - size / 2, size, size);
  }

  paintPicture(context, number) {
    const image = this.picture(this.data.keys[number]);
    if (!image.complete || !image.naturalWidth) return;
    const [x, y] = this.place(number);
    context.fillStyle = this.selected.has(number)
      ? getComputedStyle(this.canvas).color
      : colourOf(this.data.codes[number]);
    context.fillRect(x - PICTURE / 2 - 2, y - PICTURE / 2 - 2, PICTURE + 4, PICTURE + 4);
    context.drawImage(image, x - PICTURE / 2, y - PICTURE / 2, PICTURE, PICTURE);
  }

  paintOutline(context) {
    context.strokeStyle = getComputedStyle(this.canvas).color;
    context.lineWidth = 2;
    context.setLineDash([6, 4]);
    context.beginPath();
    for (const [x, y] of this.outline) context.lineTo(x, y);
    context.closePath();
    context.stroke();
  }

  picture(key) {
    let image = this.pictures.get(key);
    if (!image) {
      image = new Image();
      image.addEventListener("load", () => this.draw());
      image.src = `api/shapes/${key}/picture`;
      this.pictures.set(key, image);
      if (this.pictures.size > MAX_KEPT) this.pictures.delete(this.pictures.keys().next().value);
    }
    return image;
  }
}

// Returns the colour of a class by its number: the largest classes have colours of their own.
export function colourOf(code) {
  return COLOURS[code] ?? OTHER;
}

export const COLOURED = COLOURS.length;
