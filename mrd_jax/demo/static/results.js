// SPDX-License-Identifier: Apache-2.0
// Cards of the shapes found, and views of clouds. Names come from strangers: only as text.

import * as server from "./server.js";

// three.js is the heaviest part of the page, so it comes after what can be read already.
const stage = import("./clouds.js").then((clouds) => clouds.makeStage(), () => null);

const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      entry.target.load();
    }
  },
  { rootMargin: "200px" },
);

export function element(tag, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

// Puts the cloud at an address into a view, in front of whatever picture is there.
export async function showCloud(view, address, name) {
  const drawn = await stage;
  if (!drawn) return;
  const canvas = drawn.view(await server.cloud(address), name);
  view.querySelector("canvas")?.remove();
  view.prepend(canvas);
  document.getElementById("turning").hidden = false;
}

// shape: as the server describes it; onAlike: called with it by the card's button.
export function card(shape, { onAlike }) {
  const picture = element("img", {
    src: `api/shapes/${shape.number}/picture`,
    alt: `Picture of ${shape.title}`,
    loading: "lazy",
  });
  const view = element("div", { className: "view" }, picture);
  view.load = () =>
    showCloud(view, `api/shapes/${shape.number}/cloud`, shape.title).catch(() => {
      // The picture stays.
    });
  const button = element("button", { type: "button", text: "More like this" });
  button.setAttribute("aria-label", `More like this: ${shape.title}`);
  button.addEventListener("click", () => onAlike(shape));
  const credit = [shape.creator, shape.licence].filter(Boolean).join(", ");
  const made = element(
    "li",
    { className: "card" },
    view,
    element("h3", { text: shape.title }),
    element("p", { className: "score", text: `likeness ${shape.score.toFixed(3)}` }),
    element("p", { className: "credit", text: credit }),
    button,
  );
  seen.observe(view);
  return made;
}
