// SPDX-License-Identifier: Apache-2.0
// The terms of the query as a list with weights.

import { button, byId, element } from "./elements.js";

// onWeight: called when a weight has changed; onRemove: called with a term that was removed.
export function showTerms(query, { onWeight, onRemove }) {
  const weighted = query.terms.length > 1 || query.terms.some((term) => term.weight !== 1);
  byId("query").hidden = !query.terms.length;
  byId("parts").replaceChildren(
    ...query.terms.map((term) => {
      const item = element("li", {}, element("span", { text: term.label }));
      if (weighted) item.append(weight(term, onWeight));
      const remove = button("Remove", () => onRemove(term), { label: `Remove ${term.label}` });
      item.append(remove);
      return item;
    }),
  );
}

function weight(term, onWeight) {
  const slider = element("input", { type: "range", min: -1, max: 1, step: 0.1 });
  slider.value = term.weight;
  slider.setAttribute("aria-label", `Weight of ${term.label}`);
  const output = element("output", { text: term.weight });
  slider.addEventListener("input", () => {
    term.weight = Number(slider.value);
    output.textContent = term.weight;
  });
  // Updates only the results: the slider has to keep the focus.
  slider.addEventListener("change", onWeight);
  return element("label", {}, element("span", { text: "weight" }), slider, output);
}
