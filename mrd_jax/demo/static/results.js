// SPDX-License-Identifier: Apache-2.0
// Result cards, their views, and lists of cards that grow.

import { button, byId, element } from "./elements.js";
import * as server from "./server.js";

const PAGE = 24; // results per request

// three.js is the largest file of the page, so it is loaded after the page is usable.
const stage = import("./stage.js").then((loaded) => loaded.makeStage(), () => null);

// Loads a view shortly before it is scrolled into sight, and frees it when it is far away, so that a
// long list needs little memory.
const observer = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) target.load();
      else target.unload();
    }
  },
  { rootMargin: "400px" },
);

// Fetches a shape and shows it in a view, in front of the picture.
// place: "api/shapes/KEY" or "api/uploads/ID"; shape: has `mesh`.
export async function showShape(view, place, shape, name) {
  const loadedStage = await stage;
  if (!loadedStage) return;
  const data = await server.shapeData(place, shape);
  if (view.wanted === false) return;
  view.querySelector("canvas")?.remove();
  view.prepend(loadedStage.view(data, name));
  byId("view-help").hidden = false;
}

export function picture(shape) {
  return element("img", {
    src: `api/shapes/${shape.key}/picture`,
    alt: `Picture of ${shape.title}`,
    loading: "lazy",
  });
}

// actions: onMoreLike and onOpen, called with the shape by the card's buttons.
export function card(shape, { onMoreLike, onOpen }) {
  const view = element("div", { className: "view" }, picture(shape));
  view.wanted = false;
  view.load = () => {
    if (view.wanted) return;
    view.wanted = true;
    showShape(view, `api/shapes/${shape.key}`, shape, shape.title).catch(() => {
      // The picture stays.
    });
  };
  view.unload = () => {
    const canvas = view.querySelector("canvas");
    if (!canvas || canvas === document.activeElement) return;
    view.wanted = false;
    canvas.remove();
    canvas.dispose();
  };
  const credit = [shape.creator, shape.licence].filter(Boolean).join(", ");
  const score = shape.score === null ? shape.label : `similarity ${shape.score.toFixed(3)}`;
  const open = button("Details", () => onOpen(shape), { label: `Details of ${shape.title}` });
  const more = button("More like this", () => onMoreLike(shape), {
    label: `More like this: ${shape.title}`,
  });
  observer.observe(view);
  return element(
    "li",
    { className: "card" },
    view,
    element("h3", { text: shape.title }),
    element("p", { className: "score", text: score }),
    element("p", { className: "credit", text: credit }),
    element("div", { className: "buttons" }, more, open),
  );
}

// A list of cards that loads more when its end is near.
export class CardList {
  // list: ol element; more: button that loads more; actions: see `card`; onError: called with errors.
  constructor(list, more, { actions, onError }) {
    Object.assign(this, { list, more, actions, onError });
    more.addEventListener("click", () => this.grow());
    new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.grow(), {
      rootMargin: "300px",
    }).observe(more);
    this.clear();
  }

  clear() {
    this.list.replaceChildren();
    this.fetchPage = null;
    this.more.hidden = true;
  }

  // Replaces the cards. fetchPage: called with {offset, count, signal}; returns {found, total}.
  // Returns the total.
  async show(fetchPage, signal) {
    this.fetchPage = null; // ends the growth of the old list
    const { found, total } = await fetchPage({ offset: 0, count: PAGE, signal });
    this.list.replaceChildren(...found.map((shape) => card(shape, this.actions)));
    this.fetchPage = fetchPage;
    this.offset = PAGE;
    this.more.hidden = this.offset >= total;
    return total;
  }

  async grow() {
    const { fetchPage } = this;
    if (!fetchPage || this.more.hidden || this.growing === fetchPage) return;
    this.growing = fetchPage;
    try {
      const { found, total } = await fetchPage({ offset: this.offset, count: PAGE });
      if (fetchPage !== this.fetchPage) return; // another list is shown by now
      this.list.append(...found.map((shape) => card(shape, this.actions)));
      this.offset += PAGE;
      this.more.hidden = this.offset >= total;
    } catch (error) {
      this.onError(error);
    } finally {
      if (this.growing === fetchPage) this.growing = null;
    }
  }
}
