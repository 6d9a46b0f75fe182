// SPDX-License-Identifier: Apache-2.0
// Saves metadata of shapes as a CSV file.

import { element } from "./elements.js";

const COLUMNS = ["id", "title", "label", "creator", "licence"];

export function toCsv(shapes) {
  const rows = [COLUMNS, ...shapes.map((shape) => COLUMNS.map((column) => shape[column]))];
  return rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
}

export function save(text, name) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000); // the browser reads it after the click
}

// Spreadsheets run a cell that begins with one of these characters as a formula.
function cell(text) {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}
