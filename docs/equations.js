// SPDX-License-Identifier: Apache-2.0
// Typesets the equations that pymdownx.arithmatex marks: \[...\] and \(...\).
for (const element of document.querySelectorAll(".arithmatex")) {
  const source = element.textContent.trim();
  katex.render(source.slice(2, -2), element, {
    displayMode: source.startsWith("\\["),
    throwOnError: true,
  });
}
