// SPDX-License-Identifier: Apache-2.0
// Makes elements of the page. Names of shapes are untrusted: they are inserted as text only.

export const byId = (id) => document.getElementById(id);

export function element(tag, { text, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
}

// label: what screen readers say instead of the text.
export function button(text, onClick, { label, ...properties } = {}) {
  const node = element("button", { type: "button", text, ...properties });
  if (label) node.setAttribute("aria-label", label);
  node.addEventListener("click", onClick);
  return node;
}
