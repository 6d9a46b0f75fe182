// SPDX-License-Identifier: Apache-2.0
// Views of point clouds that can be rotated and zoomed. Browsers allow only a few WebGL contexts, so
// one context renders all views and copies each into its own 2D canvas.

import * as THREE from "./vendor/three.module.min.js";

const FIELD_OF_VIEW = 32; // degrees
const DISTANCE = 1.02 / Math.sin((FIELD_OF_VIEW / 2) * (Math.PI / 180)); // fits the unit sphere
const POINT_SIZE = 2; // diameter of a point, divided by the square root of their number
const FOG_DEPTH = 8; // distance behind the centre at which points are black
const ROTATION_SPEED = 0.6; // degrees per pixel
const ROTATION_STEP = 15; // degrees per key press
const MAX_TILT = 85; // degrees
const ROTATION_KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const MAX_ZOOM = 4; // relative to the view of the whole cloud
const ZOOM_STEP = 1.25; // factor per key press
const ZOOM_KEYS = { "+": ZOOM_STEP, "=": ZOOM_STEP, "-": 1 / ZOOM_STEP, _: 1 / ZOOM_STEP };
const ZOOM_SPEED = 0.01; // logarithm of the factor per pixel of scrolling
const MAX_SCROLL = 22; // pixels per event: a wheel sends about 100, a touchpad a few

// Returns null if the browser has no WebGL; the page then shows pictures only.
export function makeStage() {
  try {
    return new Stage();
  } catch {
    return null;
  }
}

class Stage {
  constructor() {
    this.renderer = new THREE.WebGLRenderer({ alpha: true, antialias: true });
    // No colour conversion: colours are shown as they are stored.
    this.renderer.outputColorSpace = THREE.LinearSRGBColorSpace;
    this.renderer.setPixelRatio(1);
    this.camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.1, 10);
    this.camera.up.set(0, 0, 1);
    this.scene = new THREE.Scene();
    // Farther points are darker, to distinguish front from back.
    this.scene.fog = new THREE.Fog(0x000000, DISTANCE - 1, DISTANCE + FOG_DEPTH);
    this.material = new THREE.PointsMaterial({
      vertexColors: true,
      alphaMap: discTexture(),
      alphaTest: 0.5,
    });
    this.points = new THREE.Points(new THREE.BufferGeometry(), this.material);
    this.points.frustumCulled = false;
    this.scene.add(this.points);
  }

  // Returns a canvas that shows a cloud; `name` is its label for screen readers.
  view(cloud, name) {
    return new View(this, cloud, name).canvas;
  }

  draw(view) {
    const side = Math.max(1, Math.round(view.canvas.clientWidth * window.devicePixelRatio));
    if (view.canvas.width !== side) view.canvas.width = view.canvas.height = side;
    this.renderer.setSize(side, side, false);
    this.points.geometry = view.geometry;
    // three.js computes point sizes for a field of view of 90 degrees.
    this.material.size =
      (view.zoom * view.pointSize) / Math.tan(THREE.MathUtils.degToRad(FIELD_OF_VIEW / 2));
    this.camera.zoom = view.zoom;
    this.camera.updateProjectionMatrix();
    const azimuth = THREE.MathUtils.degToRad(view.azimuth);
    const tilt = THREE.MathUtils.degToRad(view.tilt);
    this.camera.position.set(
      DISTANCE * Math.cos(tilt) * Math.cos(azimuth),
      DISTANCE * Math.cos(tilt) * Math.sin(azimuth),
      DISTANCE * Math.sin(tilt),
    );
    this.camera.lookAt(0, 0, 0);
    this.renderer.render(this.scene, this.camera);
    const context = view.canvas.getContext("2d");
    context.clearRect(0, 0, side, side);
    context.drawImage(this.renderer.domElement, 0, 0);
  }
}

// Returns an alpha map that makes points round: white is opaque, black is transparent.
function discTexture() {
  const side = 32;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, side, side);
  context.fillStyle = "white";
  context.arc(side / 2, side / 2, side / 2, 0, 2 * Math.PI);
  context.fill();
  return new THREE.CanvasTexture(canvas);
}

class View {
  constructor(stage, cloud, name) {
    this.stage = stage;
    this.azimuth = -45;
    this.tilt = 25;
    this.zoom = 1;
    this.pointers = new Map(); // positions of the pressed pointers by id
    this.drawScheduled = false;
    this.pointSize = POINT_SIZE / Math.sqrt(Math.max(1, cloud.rgb.length / 3));
    this.geometry = new THREE.BufferGeometry();
    this.geometry.setAttribute("position", new THREE.BufferAttribute(cloud.xyz, 3, true));
    this.geometry.setAttribute("color", new THREE.BufferAttribute(cloud.rgb, 3, true));
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
    this.geometry.dispose();
  }
}
