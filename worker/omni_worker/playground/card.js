// One thing that was asked for: its card shows how it goes, and what came of it.

import { Failure, stream } from "./api.js";
import { curl, python } from "./snippets.js";

const SMALL = 128; // pixels, below which a picture is shown with its pixels as they are

export class Card {
  constructor(body, path, tell, again) {
    this.id = `playground-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
    this.body = body;
    this.path = path;
    this.tell = tell;
    this.root = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.abort = new AbortController();
    this.part(".asked").textContent = body.prompt ?? body.messages.at(-1).content;
    for (const [name, code] of [["curl", curl], ["python", python]]) {
      this.part(`[data-code=${name}]`).textContent = code(path, body);
      this.part(`[data-copy=${name}]`).addEventListener("click", () => navigator.clipboard.writeText(code(path, body)));
    }
    this.button("cancel").addEventListener("click", () => this.abort.abort());
    this.button("again").addEventListener("click", () => again(this.body));
    this.button("remove").addEventListener("click", () => this.root.remove());
  }

  part(selector) { return this.root.querySelector(selector); }
  button(name) { return this.part(`[data-do=${name}]`); }
  get isRunning() { return !this.button("cancel").hidden; }

  async run(previews) {
    this.say("waiting");
    try {
      if (this.path.includes("chat")) await this.write();
      else await this.paint(previews);
      this.end("done");
    } catch (error) {
      if (this.abort.signal.aborted) return this.end("cancelled");
      this.end("failed");
      const where = error instanceof Failure && error.stage ? `at stage ${error.stage}: ` : "";
      this.part(".error").textContent = where + (error.message || "the connection was lost");
      this.part(".error").hidden = false;
    }
  }

  async paint(previews) {
    for await (const event of stream(this.path, { ...this.body, partial_images: previews }, this.id, this.abort.signal)) {
      this.show(event);
      if (event.type.endsWith(".completed")) {
        this.part(".asked").textContent = `${this.body.prompt} · seed ${event.seed ?? this.body.seed} · ${event.size}`;
        const save = this.button("save");
        [save.href, save.download, save.hidden] = [this.part("img").src, `${this.id}.${event.output_format}`, false];
      }
    }
  }

  async write() {
    const place = this.part(".frame pre");
    place.hidden = false;
    for await (const event of stream(this.path, this.body, this.id, this.abort.signal)) {
      const piece = event.choices[0]?.delta.content;
      if (typeof piece === "string") place.textContent += piece;
    }
  }

  show(event) {
    const picture = this.part("img");
    picture.src = `data:image/${event.output_format};base64,${event.b64_json}`;
    picture.alt = this.body.prompt;
    picture.classList.toggle("small", parseInt(event.size) < SMALL);
    picture.hidden = false;
  }

  // Where the server says that it is: an entry of /omni/requests.
  progress(running) {
    const bar = this.part("progress");
    if (running.total_steps) bar.value = Math.max(bar.value > 0 ? bar.value : 0, running.step / running.total_steps);
    const steps = running.total_steps ? `, step ${running.step} of ${running.total_steps}` : "";
    this.say(running.state === "running" ? `${running.replica}${steps}` : "waiting");
  }

  say(state) { this.part(".state").textContent = state; }

  end(state) {
    this.say(state);
    this.tell(`${state}: ${this.body.prompt ?? this.body.messages.at(-1).content}`);
    this.part("progress").hidden = this.button("cancel").hidden = true;
    this.button("again").hidden = this.button("remove").hidden = false;
  }
}
