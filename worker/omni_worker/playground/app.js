// The page: what is asked for becomes cards, and the pipeline is watched.

import { get, setKey } from "./api.js";
import { Card } from "./card.js";
import { offer, requests as wished } from "./form.js";
import { draw } from "./pipeline.js";

const WATCH_MS = { idle: 1000, busy: 400 };
const byId = (id) => document.getElementById(id);
const form = byId("form");
const running = new Set();

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  for (const request of await wished()) start(request);
});

form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

byId("api-key").addEventListener("change", (event) => { setKey(event.target.value); watch(); });

function start(request) {
  byId("empty").hidden = true;
  const card = new Card(request, (news) => { byId("news").textContent = news; });
  running.add(card);
  byId("gallery").prepend(card.root);
  card.run().finally(() => running.delete(card));
}

async function watch() {
  try {
    const [topology, { requests }] = await Promise.all([get("v1/omni/topology"), get("omni/requests")]);
    introduce(topology);
    const own = new Map([...running].map((card) => [card.id, card]));
    const cardOf = (one) => own.get(one.client_id) ?? own.get(one.id);
    for (const one of requests) cardOf(one)?.progress(one);
    draw(byId("pipeline"), topology, requests, (one) => cardOf(one)?.name ?? one.id);
  } catch (error) {
    byId("health").textContent = error.status === 401 ? "an API key is needed" : `the server does not answer: ${error.message}`;
    if (error.status === 401) byId("key").open = true;
  }
}

function introduce(topology) {
  byId("model").textContent = document.title = topology.model;
  const missing = topology.stages.filter((stage) => !stage.replicas.some((replica) => replica.state === "UP"));
  const health = missing.length ? `not ready: no replica of ${missing.map((stage) => stage.name).join(", ")} is up` : "ready";
  if (byId("health").textContent !== health) byId("health").textContent = health; // what is said again is read out again
  offer(topology);
}

async function keepWatching() {
  if (!document.hidden) await watch();
  setTimeout(keepWatching, running.size ? WATCH_MS.busy : WATCH_MS.idle);
}

byId("api-key").value = sessionStorage.getItem("api-key") ?? "";
keepWatching();
