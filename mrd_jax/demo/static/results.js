// SPDX-License-Identifier: Apache-2.0
// Result cards and views of point clouds. Names are untrusted: they are inserted as text only.

import * as server from "./server.js";

// three.js is the largest file of the page, so it is loaded after the page is usable.
const stage = import("./clouds.js").then((clouds) => clouds.makeStage(), () => null);

// Loads the cloud of a view shortly before the view is scrolled into sight.
const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      entry.target.load();
    }
  },
  { rootMargin: "200px" },
);

export function element(tag, { text, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
}

// Fetches a cloud and shows it in a view, in front of the picture.
export async function showCloud(view, address, name) {
  const loadedStage = await stage;
  if (!loadedStage) return;
  const canvas = loadedStage.view(await server.cloud(address), name);
  view.querySelector("canvas")?.remove();
  view.prepend(canvas);
  document.getElementById("view-help").hidden = false;
}

// shape: a result of `server.find`; onMoreLike: called with the shape by the card's button.
export function card(shape, { onMoreLike }) {
  const picture = element("img", {
    src: `api/shapes/${shape.key}/picture`,
    alt: `Picture of ${shape.title}`,
    loading: "lazy",
  });
  const view = element("div", { className: "view" }, picture);
  view.load = () =>
    showCloud(view, `api/shapes/${shape.key}/cloud`, shape.title).catch(() => {
      // The picture stays.
    });
  const button = element("button", { type: "button", text: "More like this" });
  button.setAttribute("aria-label", `More like this: ${shape.title}`);
  button.addEventListener("click", () => onMoreLike(shape));
  const credit = [shape.creator, shape.licence].filter(Boolean).join(", ");
  const item = element(
    "li",
    { className: "card" },
    view,
    element("h3", { text: shape.title }),
    element("p", { className: "score", text: `similarity ${shape.score.toFixed(3)}` }),
    element("p", { className: "credit", text: credit }),
    button,
  );
  observer.observe(view);
  return item;
}
