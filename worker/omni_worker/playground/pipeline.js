// A live picture of the pipeline: its stages, their replicas and loads, and where the requests are.

const SHOWN = 8;

export function draw(place, topology, requests, nameOf) {
  const stages = element("ol", { class: "stages" });
  for (const stage of topology.stages) {
    const here = requests.filter((request) => request.stage === stage.name);
    const item = element("li", { class: `stage${here.length ? " busy" : ""}` },
      element("strong", {}, stage.name),
      element("span", { class: "hint" }, ` ${stage.pipeline ?? stage.engine}${stage.input ? ` · takes ${stage.input}` : ""}`),
      element("ul", { class: "replicas" }, ...(stage.replicas.length ? stage.replicas.map(replica) : [element("li", { class: "hint" }, "no replicas")])));
    if (here.length) item.append(element("ul", { class: "requests", "aria-label": `requests at ${stage.name}` }, ...here.slice(0, SHOWN).map((one) => request(one, nameOf(one))), ...(here.length > SHOWN ? [element("li", { class: "hint" }, `and ${here.length - SHOWN} more`)] : [])));
    stages.append(item);
  }
  place.replaceChildren(stages);
}

function replica(one) {
  const held = one.queue_length + one.running;
  return element("li", { class: "replica" },
    element("span", {}, one.id),
    element("span", { class: one.state }, one.state),
    element("span", { class: "hint" }, `${one.running} running, ${one.queue_length} waiting, ${one.completed} done`),
    element("span", { class: "hint" }, one.step_ms ? `${one.step_ms.toFixed(1)} ms a step` : ""),
    element("meter", { min: 0, max: Math.max(1, one.capacity), value: held, "aria-label": `${one.id}: ${held} of ${one.capacity}` }));
}

function request(one, name) {
  const steps = one.total_steps ? `, step ${one.step} of ${one.total_steps}` : "";
  return element("li", {}, `${name}: ${one.state === "running" ? `on ${one.replica}` : one.state}${steps}`);
}

export function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}
