// SPDX-License-Identifier: Apache-2.0
// A canvas with a shape that is rotated and zoomed by mouse, touch and keyboard.

const ROTATION_SPEED = 0.6; // degrees per pixel
const ROTATION_STEP = 15; // degrees per key press
const MAX_TILT = 85; // degrees
const ROTATION_KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const MAX_ZOOM = 4; // relative to the view of the whole cloud
const ZOOM_STEP = 1.25; // factor per key press
const ZOOM_KEYS = { "+": ZOOM_STEP, "=": ZOOM_STEP, "-": 1 / ZOOM_STEP, _: 1 / ZOOM_STEP };
const ZOOM_SPEED = 0.01; // logarithm of the factor per pixel of scrolling
const MAX_SCROLL = 22; // pixels per event: a wheel sends about 100, a touchpad a few

export class View {
  constructor(stage, object, name) {
    this.stage = stage;
    this.azimuth = -45;
    this.tilt = 25;
    this.zoom = 1;
    this.pointers = new Map(); // positions of the pressed pointers by id
    this.drawScheduled = false;
    this.object = object;
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "slider");
    this.canvas.setAttribute("aria-label", `Rotate and zoom ${name}`);
    this.canvas.setAttribute("aria-valuemin", "0");
    this.canvas.setAttribute("aria-valuemax", "359");
    this.canvas.addEventListener("pointerdown", (event) => this.grab(event));
    this.canvas.addEventListener("pointermove", (event) => this.drag(event));
    this.canvas.addEventListener("lostpointercapture", (event) => this.release(event));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("wheel", (event) => this.scroll(event), { passive: false });
    this.resizes = new ResizeObserver(() => this.show());
    this.resizes.observe(this.canvas);
    this.canvas.dispose = () => this.dispose();
    this.show();
  }

  grab(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  release(event) {
    this.pointers.delete(event.pointerId);
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const spread = this.spread();
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (spread) this.zoomBy(this.spread() / spread);
    else {
      this.rotate(
        -ROTATION_SPEED * (event.clientX - before.x),
        ROTATION_SPEED * (event.clientY - before.y),
      );
    }
  }

  // Returns the distance of two pointers in pixels, 0 if there is one pointer.
  spread() {
    const [first, second = first] = this.pointers.values();
    return Math.hypot(first.x - second.x, first.y - second.y);
  }

  // Zooms only with Ctrl or ⌘, so that a plain wheel scrolls the page over a cloud, too. Browsers
  // report a pinch on a touchpad as a wheel event with Ctrl.
  scroll(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode ? MAX_SCROLL : 1); // lines and pages are clamped
    this.zoomBy(Math.exp(-ZOOM_SPEED * Math.min(MAX_SCROLL, Math.max(-MAX_SCROLL, pixels))));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // shortcuts of the browser
    const direction = ROTATION_KEYS[event.key];
    const factor = ZOOM_KEYS[event.key];
    if (!direction && !factor) return;
    event.preventDefault();
    if (direction) this.rotate(ROTATION_STEP * direction[0], ROTATION_STEP * direction[1]);
    else this.zoomBy(factor);
  }

  rotate(azimuth, tilt) {
    this.azimuth = (this.azimuth + azimuth + 360) % 360;
    this.tilt = Math.min(MAX_TILT, Math.max(-MAX_TILT, this.tilt + tilt));
    this.show();
  }

  zoomBy(factor) {
    this.zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
    this.show();
  }

  show() {
    const azimuth = Math.round(this.azimuth + 360) % 360;
    const tilt = Math.round(this.tilt);
    const zoom = Math.round(10 * this.zoom) / 10;
    this.canvas.setAttribute("aria-valuenow", azimuth);
    this.canvas.setAttribute(
      "aria-valuetext",
      `${azimuth} degrees, seen from ${Math.abs(tilt)} degrees ${tilt < 0 ? "below" : "above"}` +
        (zoom > 1 ? `, enlarged ${zoom} times` : ""),
    );
    if (this.drawScheduled) return;
    this.drawScheduled = true;
    requestAnimationFrame(() => {
      this.drawScheduled = false;
      if (this.canvas.isConnected) this.stage.draw(this);
      else this.dispose();
    });
  }

  // Frees the GPU memory of a canvas that was removed from the page.
  dispose() {
    this.resizes.disconnect();
    this.object.geometry.dispose();
  }
}
