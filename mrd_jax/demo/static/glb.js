// SPDX-License-Identifier: Apache-2.0
// Reads the glb files of the index, whose layout `mrd_jax/search/glb.py` defines. It is no reader of
// glTF in general: uploads are read, checked and reduced by the server.

const HEADER = 12; // bytes
const CHUNK_HEADER = 8;
const ARRAYS = { 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array };
const LENGTHS = { SCALAR: 1, VEC3: 3, VEC4: 4 };
const TRIANGLES = 4;

// data: ArrayBuffer. Returns {xyz, rgba, faces, blended}: faces is null for points; colours are
// linear; blended says whether parts are transparent.
export function parse(data) {
  const view = new DataView(data);
  const jsonSize = view.getUint32(HEADER, true);
  const jsonStart = HEADER + CHUNK_HEADER;
  const text = new TextDecoder().decode(new Uint8Array(data, jsonStart, jsonSize));
  const document = JSON.parse(text);
  const binaryStart = jsonStart + jsonSize + CHUNK_HEADER;
  const array = (number) => {
    const { bufferView, componentType, count, type } = document.accessors[number];
    const start = binaryStart + document.bufferViews[bufferView].byteOffset;
    return new ARRAYS[componentType](data, start, count * LENGTHS[type]);
  };
  const primitive = document.meshes[0].primitives[0];
  return {
    xyz: array(primitive.attributes.POSITION),
    rgba: array(primitive.attributes.COLOR_0),
    faces: primitive.mode === TRIANGLES ? array(primitive.indices) : null,
    blended: document.materials[0].alphaMode === "BLEND",
  };
}
