// SPDX-License-Identifier: Apache-2.0
// Draws meshes and point clouds. Browsers allow only a few WebGL contexts, so one context renders all
// views and copies each into its own 2D canvas.

import * as THREE from "./vendor/three.module.min.js";
import { View } from "./view.js";

const FIELD_OF_VIEW = 32; // degrees
const DISTANCE = 1.02 / Math.sin((FIELD_OF_VIEW / 2) * (Math.PI / 180)); // fits the unit sphere
const POINT_SIZE = 2; // diameter of a point, divided by the square root of their number
const FOG_DEPTH = 8; // distance behind the centre at which points are black

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
    this.renderer.setPixelRatio(1);
    this.camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.1, 10);
    this.camera.up.set(0, 0, 1);
    this.scene = new THREE.Scene();
    // Farther points are darker, to distinguish front from back; meshes are lit instead.
    this.scene.fog = new THREE.Fog(0x000000, DISTANCE - 1, DISTANCE + FOG_DEPTH);
    this.pointMaterial = new THREE.PointsMaterial({
      vertexColors: true,
      alphaMap: discTexture(),
      alphaTest: 0.5,
    });
    const surface = { vertexColors: true, flatShading: true, side: THREE.DoubleSide, fog: false };
    this.meshMaterial = new THREE.MeshLambertMaterial(surface);
    this.blendedMaterial = new THREE.MeshLambertMaterial({ ...surface, transparent: true });
    const sky = new THREE.HemisphereLight(0xffffff, 0x9a9aa0, 1.9);
    sky.position.set(0, 0, 1);
    this.lamp = new THREE.DirectionalLight(0xffffff, 2);
    this.scene.add(sky, this.lamp);
  }

  // Returns a canvas that shows a shape of `server.mesh` or `server.cloud`; `name` is its label for
  // screen readers.
  view(shape, name) {
    return new View(this, shape.faces === undefined ? this.cloud(shape) : this.mesh(shape), name)
      .canvas;
  }

  // Coordinates and colours of a cloud are integers, and its colours are shown as they are stored.
  cloud({ xyz, rgb }) {
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(xyz, 3, true));
    geometry.setAttribute("color", new THREE.BufferAttribute(rgb, 3, true));
    return this.points(geometry, { linear: false });
  }

  mesh({ xyz, rgba, faces, blended }) {
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(xyz, 3));
    geometry.setAttribute("color", new THREE.BufferAttribute(rgba, 4, true));
    geometry.rotateX(Math.PI / 2); // from y up to z up
    if (!faces) return this.points(geometry, { linear: true });
    geometry.setIndex(new THREE.BufferAttribute(faces, 1));
    const material = blended ? this.blendedMaterial : this.meshMaterial;
    return Object.assign(new THREE.Mesh(geometry, material), { linear: true });
  }

  points(geometry, { linear }) {
    const points = new THREE.Points(geometry, this.pointMaterial);
    points.frustumCulled = false;
    const count = geometry.getAttribute("position").count;
    return Object.assign(points, {
      linear,
      pointSize: POINT_SIZE / Math.sqrt(Math.max(1, count)),
    });
  }

  draw(view) {
    const side = Math.max(1, Math.round(view.canvas.clientWidth * window.devicePixelRatio));
    if (view.canvas.width !== side) view.canvas.width = view.canvas.height = side;
    this.renderer.setSize(side, side, false);
    this.renderer.outputColorSpace = view.object.linear
      ? THREE.SRGBColorSpace
      : THREE.LinearSRGBColorSpace;
    // three.js computes point sizes for a field of view of 90 degrees.
    this.pointMaterial.size =
      (view.zoom * (view.object.pointSize ?? 0)) /
      Math.tan(THREE.MathUtils.degToRad(FIELD_OF_VIEW / 2));
    this.place(view);
    this.scene.add(view.object);
    this.renderer.render(this.scene, this.camera);
    this.scene.remove(view.object);
    const context = view.canvas.getContext("2d");
    context.clearRect(0, 0, side, side);
    context.drawImage(this.renderer.domElement, 0, 0);
  }

  // Moves the camera, and with it the lamp, which is above its left shoulder.
  place(view) {
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
    this.lamp.position.set(Math.cos(azimuth - 0.6), Math.sin(azimuth - 0.6), 0.9);
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
