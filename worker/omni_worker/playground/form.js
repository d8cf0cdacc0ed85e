// The form: it offers what the pipeline gives and its models take, and makes requests of what is filled in.

import { painted } from "./mask.js";
import { choose, offerPictures } from "./pictures.js";

const PATHS = { image: "v1/images/generations", video: "v1/videos", audio: "v1/audio/speech", text: "v1/chat/completions" };
const EDITS = "v1/images/edits"; // pictures from pictures
const NUMBERS = ["steps", "guidance_scale", "strength", "seed"];
const form = document.getElementById("form");
const wanted = document.getElementById("wanted");
const thread = document.getElementById("thread");
let model;
let takes = {};
let earlier = []; // messages of the conversation that is continued

wanted.addEventListener("change", show);
thread.querySelector("button").addEventListener("click", () => goOn([]));

// Offer what this pipeline gives.
export function offer(topology) {
  model = topology.model;
  const painters = topology.stages.filter((stage) => stage.engine === "diffusion");
  const writes = topology.stages.some((stage) => stage.engine === "autoregressive" && stage.task === "generate");
  takes = { image: "none", strength: false, ...painters.at(-1)?.takes };
  if (takesPictures()) takes.sized = true; // where the model cannot be told of a size, the picture is scaled
  const kinds = [painters.length ? product() : "", writes ? "text" : ""].filter(Boolean);
  for (const choice of wanted.querySelectorAll("input")) choice.parentElement.hidden = !kinds.includes(choice.value);
  wanted.hidden = kinds.length < 2;
  if (kinds.length && !kinds.includes(form.elements.wanted.value)) form.elements.wanted.value = kinds[0];
  show();
}

function product() { return takes.audio ? "audio" : takes.video ? "video" : "image"; }

export const takesPictures = () => takes.image !== "none";

// Show the settings of what is wanted, with the model's own values where it has told them.
function show() {
  thread.hidden = !earlier.length || form.elements.wanted.value !== "text";
  for (const label of form.querySelectorAll("[data-for]")) {
    const isTaken = takes[label.dataset.takes] ?? true;
    label.hidden = !(label.dataset.for.split(" ").includes(form.elements.wanted.value) && isTaken);
    label.querySelector("input, select").disabled = label.hidden;
  }
  offerPictures(takes, form.elements.wanted.value);
  const own = takes.defaults ?? {};
  const known = {
    size: own.width && own.height && `${own.width}x${own.height}`,
    steps: own.num_inference_steps ?? takes.steps,
    guidance_scale: own.guidance_scale,
    strength: own.strength,
    seconds: own.seconds ?? takes.seconds,
  };
  for (const [name, value] of Object.entries(known)) form.elements[name].placeholder = value ? `auto: ${value}` : "auto";
}

// The requests that the form asks for: their path, body, files as pairs of a field and a file, and count of previews.
export async function requests() {
  await painted();
  const filled = [...new FormData(form)].filter(([, value]) => value !== "" && value.size !== 0);
  const files = filled.filter(([, value]) => value instanceof File);
  const { prompt, wanted: kind, count = 1, previews = 0, ...settings } = Object.fromEntries(filled.filter((one) => !files.includes(one)));
  for (const name of NUMBERS) if (name in settings) settings[name] = Number(settings[name]);
  if (kind === "text") {
    const messages = [...earlier, { role: "user", content: prompt }];
    return [{ path: PATHS[kind], body: { model, messages, modalities: ["text"], ...settings }, files, previews: 0 }];
  }
  if (kind === "audio") {
    if ("seconds" in settings) settings.seconds = Number(settings.seconds);
    return [{ path: PATHS[kind], body: { model, input: prompt, ...settings }, files: [], previews: 0 }];
  }
  const path = kind === "image" && files.length ? EDITS : PATHS[kind];
  const sent = kind === "video" ? files.map(([, file]) => ["input_reference", file]) : files;
  return Array.from({ length: Number(count) }, (_, i) => {
    const seed = "seed" in settings ? { seed: settings.seed + i } : {};
    return { path, body: { model, prompt, ...settings, ...seed }, files: sent, previews: Number(previews) };
  });
}

// Fill in what a request asked for.
export function fill({ path, body, files }) {
  form.elements.wanted.value = path === EDITS ? "image" : Object.keys(PATHS).find((name) => PATHS[name] === path);
  show();
  for (const field of form.querySelectorAll("textarea, #settings :is(input, select):enabled")) if (!["count", "previews"].includes(field.name)) field.value = body[field.name] ?? (field.localName === "select" ? field.value : "");
  form.elements.prompt.value = asked(body);
  choose(files.filter(([field]) => field !== "mask").map(([, file]) => file), files.find(([field]) => field === "mask")?.[1]);
  if (body.messages) goOn(body.messages.slice(0, -1));
  form.elements.prompt.focus();
}

// Start from a picture that was made.
export function startFrom(file) {
  form.elements.wanted.value = "image";
  show();
  choose([file]);
  form.elements.prompt.focus();
}

// Have the next question go on from these messages.
export function goOn(messages) {
  earlier = messages;
  thread.querySelector("span").textContent = `Continues from “${messages.at(-1)?.content ?? ""}”.`;
  if (messages.length) form.elements.wanted.value = "text";
  show();
  form.elements.prompt.focus();
}

// What a request asks for, in words.
export function asked(body) { return body.prompt ?? body.input ?? body.messages.at(-1).content; }
