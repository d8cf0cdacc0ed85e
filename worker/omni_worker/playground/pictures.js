// The pictures to start from: chosen, dropped, pasted, or taken from the gallery. The file input itself holds them.

import { listOf, thumbnail } from "./files.js";
import { maskIs, paintOn } from "./mask.js";

const form = document.getElementById("form");
const place = document.getElementById("pictures");
const maskPlace = document.getElementById("mask");
const input = place.querySelector("input");
const alert = place.querySelector(".error");
let takes = "none"; // or one, or several

input.addEventListener("change", () => choose([...input.files]));
document.addEventListener("paste", (event) => {
  if (place.hidden || !event.clipboardData.files.length) return;
  event.preventDefault();
  add(event.clipboardData.files);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (place.hidden || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    form.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}

// Offer what a model takes for an answer of this kind.
export function offerPictures(model, kind) {
  takes = kind === "text" ? "none" : kind === "video" && model.image === "several" ? "one" : model.image;
  place.hidden = place.disabled = takes === "none";
  input.multiple = takes === "several";
  input.required = takes !== "none" && model.needs_image;
  maskPlace.disabled = !(kind === "image" && model.mask);
  maskPlace.hidden = maskPlace.disabled || !input.files.length;
  const legend = `Input image${input.multiple ? "s" : ""}${input.required ? "" : " (optional)"}`;
  if (place.querySelector("legend").textContent !== legend) place.querySelector("legend").textContent = legend;
}

// Start from these and no others; a mask is of the first of them.
export async function choose(files, mask) {
  const known = usable(files);
  input.files = listOf(takes === "several" ? distinct(known) : known.slice(-1));
  place.querySelector(".thumbs").replaceChildren(...[...input.files].map((file, i) => thumbnail(file, `image ${i + 1}`, () => {
    choose([...input.files].filter((one) => one !== file));
    input.focus();
  })));
  maskPlace.hidden = maskPlace.disabled || !input.files.length;
  maskIs(mask);
  await paintOn(input.files[0]);
}

function add(files) {
  if (usable([...files]).length) choose([...(takes === "several" ? input.files : []), ...files]);
}

// Those that are pictures; what is none is told.
function usable(files) {
  const known = files.filter((file) => input.accept.split(",").includes(file.type));
  const strange = files.find((file) => !known.includes(file));
  alert.hidden = !strange;
  alert.textContent = strange ? `${strange.name} is not a PNG, JPEG or WebP image` : "";
  return known;
}

// Every pasted picture is called image.png; a request that is shown as code must tell them apart.
function distinct(files) {
  const names = new Set();
  return files.map((file, i) => {
    const name = names.has(file.name) ? `${i + 1}-${file.name}` : file.name;
    names.add(name);
    return name === file.name ? file : new File([file], name, { type: file.type });
  });
}
