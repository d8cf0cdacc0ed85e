// The page: what is asked for becomes cards, and the pipeline is watched.

import { get, setKey } from "./api.js";
import { Card } from "./card.js";
import { draw } from "./pipeline.js";

const WATCH_MS = 1000;
const byId = (id) => document.getElementById(id);
const form = byId("form");
const cards = new Set();
let model;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const fields = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
  const { prompt, wanted, count = 1, previews = 0, ...settings } = fields;
  if (wanted === "text") return start({ model, messages: [{ role: "user", content: prompt }], modalities: ["text"], ...seedOf(settings) }, "v1/chat/completions");
  for (const name of ["steps", "guidance_scale", "seed"]) if (name in settings) settings[name] = Number(settings[name]);
  for (let i = 0; i < Number(count); i++) {
    const seed = "seed" in settings ? { seed: settings.seed + i } : {};
    start({ model, prompt, ...settings, ...seed }, "v1/images/generations", Number(previews));
  }
});

form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

byId("api-key").addEventListener("change", (event) => { setKey(event.target.value); watch(); });
for (const choice of form.querySelectorAll("[name=wanted]")) {
  choice.addEventListener("change", () => { byId("settings").hidden = form.elements.wanted.value === "text"; });
}

function seedOf({ seed }) { return seed === undefined ? {} : { seed: Number(seed) }; }

function start(body, path, previews) {
  byId("empty").hidden = true;
  const card = new Card(body, path, (news) => { byId("news").textContent = news; }, again);
  cards.add(card);
  byId("gallery").prepend(card.root);
  card.run(previews).finally(() => cards.delete(card));
}

function again(body) {
  const known = { ...body, prompt: body.prompt ?? body.messages.at(-1).content };
  for (const field of form.elements) if (field.name in known && field.type !== "radio") field.value = known[field.name];
  byId("prompt").focus();
}

async function watch() {
  try {
    const [topology, { requests }] = await Promise.all([get("v1/omni/topology"), get("omni/requests")]);
    introduce(topology);
    draw(byId("pipeline"), topology, requests);
    for (const card of cards) for (const one of requests) if (one.id === card.id) card.progress(one);
  } catch (error) {
    byId("health").textContent = error.status === 401 ? "an API key is needed" : `no answer from the server: ${error.message}`;
    if (error.status === 401) byId("key").open = true;
  }
}

function introduce(topology) {
  model = topology.model;
  byId("model").textContent = document.title = model;
  const missing = topology.stages.filter((stage) => !stage.replicas.some((replica) => replica.state === "UP"));
  byId("health").textContent = missing.length ? `not ready: no replica of ${missing.map((stage) => stage.name).join(", ")} is up` : "ready";
  const writes = topology.stages.some((stage) => stage.engine === "autoregressive" && stage.task === "generate");
  const paints = topology.stages.some((stage) => stage.engine === "diffusion");
  byId("wanted").hidden = !(writes && paints);
  if (writes && !paints) { form.elements.wanted.value = "text"; byId("settings").hidden = true; }
}

byId("api-key").value = sessionStorage.getItem("api-key") ?? "";
watch();
setInterval(() => { if (!document.hidden) watch(); }, WATCH_MS);
