// The mask: a brush over the picture. What is painted is transparent in the file, which the file input holds, so that
// one that was chosen is shown here and can be painted further.

import { listOf } from "./files.js";

const SMALL = 128; // pixels, below which a picture is shown with its pixels as they are
const place = document.getElementById("mask");
const input = place.querySelector("input[name=mask]");
const picture = place.querySelector("img");
const canvas = place.querySelector("canvas");
const COLOUR = getComputedStyle(place).getPropertyValue("--mask");
const brush = canvas.getContext("2d", { willReadFrequently: true });
let written = Promise.resolve(); // when what was painted last is in the file

input.addEventListener("change", () => show(input.files[0]));
place.querySelector("button").addEventListener("click", () => { maskIs(); wipe(); });
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  brush.beginPath();
  brush.moveTo(...at(event));
  stroke(event);
});
canvas.addEventListener("pointermove", (event) => { if (canvas.hasPointerCapture(event.pointerId)) stroke(event); });
canvas.addEventListener("lostpointercapture", () => { written = write(); });

export const painted = () => written;

export function maskIs(file) { input.files = listOf(file ? [file] : []); }

// Have this picture below the brush, with the mask that was chosen, if any.
export async function paintOn(file) {
  URL.revokeObjectURL(picture.src);
  if (!file) return picture.removeAttribute("src");
  picture.src = URL.createObjectURL(file);
  await picture.decode().catch(() => {}); // one that is broken is refused by the server
  [canvas.width, canvas.height] = [picture.naturalWidth || 1, picture.naturalHeight || 1];
  picture.classList.toggle("small", canvas.width < SMALL);
  canvas.classList.toggle("small", canvas.width < SMALL);
  await show(input.files[0]);
}

function at(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.x) * canvas.width) / box.width, ((event.clientY - box.y) * canvas.height) / box.height];
}

function stroke(event) {
  brush.globalCompositeOperation = document.getElementById("erase").checked ? "destination-out" : "source-over";
  brush.strokeStyle = COLOUR;
  brush.lineWidth = (document.getElementById("brush").value / 100) * canvas.width;
  brush.lineCap = brush.lineJoin = "round";
  const [x, y] = at(event);
  brush.lineTo(x + 0.01, y); // a line that goes nowhere is not drawn
  brush.stroke();
}

function wipe() { brush.clearRect(0, 0, canvas.width, canvas.height); }

// Show as painted what is transparent in a file.
async function show(file) {
  wipe();
  if (!file) return;
  const mask = await createImageBitmap(file).catch(() => null);
  if (!mask) return;
  brush.globalCompositeOperation = "source-over";
  fill(brush, COLOUR);
  brush.globalCompositeOperation = "destination-out";
  brush.drawImage(mask, 0, 0, canvas.width, canvas.height);
}

async function write() {
  const mask = new OffscreenCanvas(canvas.width, canvas.height);
  const context = mask.getContext("2d");
  fill(context, "black");
  context.globalCompositeOperation = "destination-out";
  context.drawImage(canvas, 0, 0);
  maskIs(new File([await mask.convertToBlob()], "mask.png", { type: "image/png" }));
}

function fill(context, colour) {
  context.fillStyle = colour;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}
