// SPDX-License-Identifier: Apache-2.0
// Clouds that can be turned and enlarged. One WebGL context draws them all, each into a canvas of
// its own: browsers allow only a few contexts, and canvases scroll with the page.

import * as THREE from "./vendor/three.module.min.js";

const FIELD_OF_VIEW = 32; // degrees
const DISTANCE = 1.02 / Math.sin((FIELD_OF_VIEW / 2) * (Math.PI / 180)); // the unit sphere fits
const COVER = 2; // diameter of the points of a cloud of one point; more points are smaller
const HAZE = 8; // behind the middle of the sphere, where points would be black
const TURN = 0.6; // degrees a pixel
const STEP = 15; // degrees a key
const MOST_TILT = 85;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const MOST_ZOOM = 4; // times the size at which the whole cloud is seen
const ZOOM_STEP = 1.25; // times a key
const ZOOM_KEYS = { "+": ZOOM_STEP, "=": ZOOM_STEP, "-": 1 / ZOOM_STEP, _: 1 / ZOOM_STEP };
const ZOOM_SCROLL = 0.01; // of the size a pixel of scrolling
const MOST_SCROLL = 22; // pixels: a notch of a wheel is some 100, a step of a pinch a few

// Returns null where the browser has no WebGL: pictures then stand for the clouds.
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
    // Colours are shown as they are stored.
    this.renderer.outputColorSpace = THREE.LinearSRGBColorSpace;
    this.renderer.setPixelRatio(1);
    this.camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.1, 10);
    this.camera.up.set(0, 0, 1);
    this.scene = new THREE.Scene();
    // Farther points are darker, which tells front from back.
    this.scene.fog = new THREE.Fog(0x000000, DISTANCE - 1, DISTANCE + HAZE);
    this.material = new THREE.PointsMaterial({
      vertexColors: true,
      alphaMap: disc(),
      alphaTest: 0.5,
    });
    this.points = new THREE.Points(new THREE.BufferGeometry(), this.material);
    this.points.frustumCulled = false;
    this.scene.add(this.points);
  }

  // A canvas that shows a cloud; `name` is what it shows, for who cannot see it.
  view(cloud, name) {
    return new View(this, cloud, name).canvas;
  }

  draw(view) {
    const side = Math.max(1, Math.round(view.canvas.clientWidth * window.devicePixelRatio));
    if (view.canvas.width !== side) view.canvas.width = view.canvas.height = side;
    this.renderer.setSize(side, side, false);
    this.points.geometry = view.geometry;
    // three.js takes sizes as a field of view of 90 degrees would show them.
    this.material.size =
      (view.zoom * view.point) / Math.tan(THREE.MathUtils.degToRad(FIELD_OF_VIEW / 2));
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

// A texture that makes points round: nothing of them is seen where it is black.
function disc() {
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
    this.held = new Map(); // where the pointers are that hold the canvas, by their ids
    this.waiting = false;
    this.point = COVER / Math.sqrt(Math.max(1, cloud.rgb.length / 3));
    this.geometry = new THREE.BufferGeometry();
    this.geometry.setAttribute("position", new THREE.BufferAttribute(cloud.xyz, 3, true));
    this.geometry.setAttribute("color", new THREE.BufferAttribute(cloud.rgb, 3, true));
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "slider");
    this.canvas.setAttribute("aria-label", `Turn and enlarge ${name}`);
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
    this.held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  release(event) {
    this.held.delete(event.pointerId);
  }

  drag(event) {
    const before = this.held.get(event.pointerId);
    if (!before) return;
    const spread = this.spread();
    this.held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (spread) this.enlarge(this.spread() / spread);
    else this.turn(-TURN * (event.clientX - before.x), TURN * (event.clientY - before.y));
  }

  // Pixels between the fingers of a pinch; 0 where there is one finger.
  spread() {
    const [one, other = one] = this.held.values();
    return Math.hypot(one.x - other.x, one.y - other.y);
  }

  // Scrolling alone is the page's: whoever reads on must not get stuck in a cloud. Browsers report
  // the pinch of a touchpad as scrolling with Ctrl.
  scroll(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode ? MOST_SCROLL : 1); // or lines, or pages
    this.enlarge(Math.exp(-ZOOM_SCROLL * Math.min(MOST_SCROLL, Math.max(-MOST_SCROLL, pixels))));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own
    const direction = KEYS[event.key];
    const factor = ZOOM_KEYS[event.key];
    if (!direction && !factor) return;
    event.preventDefault();
    if (direction) this.turn(STEP * direction[0], STEP * direction[1]);
    else this.enlarge(factor);
  }

  turn(azimuth, tilt) {
    this.azimuth = (this.azimuth + azimuth + 360) % 360;
    this.tilt = Math.min(MOST_TILT, Math.max(-MOST_TILT, this.tilt + tilt));
    this.show();
  }

  enlarge(factor) {
    this.zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom * factor));
    this.show();
  }

  show() {
    const turned = Math.round(this.azimuth + 360) % 360;
    const tilt = Math.round(this.tilt);
    const zoom = Math.round(10 * this.zoom) / 10;
    this.canvas.setAttribute("aria-valuenow", turned);
    this.canvas.setAttribute(
      "aria-valuetext",
      `${turned} degrees, seen from ${Math.abs(tilt)} degrees ${tilt < 0 ? "below" : "above"}` +
        (zoom > 1 ? `, enlarged ${zoom} times` : ""),
    );
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (this.canvas.isConnected) this.stage.draw(this);
      else this.forget();
    });
  }

  // Frees what a canvas that left the page holds on the graphics card.
  forget() {
    this.resizes.disconnect();
    this.geometry.dispose();
  }
}
