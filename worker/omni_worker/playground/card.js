// One request: its card shows its progress and its result.

import { Failure, blob, file, get, post, remove, stream } from "./api.js";
import { ofBase64, thumbnail } from "./files.js";
import { asked, fill, goOn, startFrom, takesPictures } from "./form.js";
import { curl, python } from "./snippets.js";

const SMALL = 128; // pixels, below which a picture is shown with its pixels as they are
const POLL_MS = 400;
const SNIPPETS = [["curl", curl], ["python", python]];
let count = 0;

export class Card {
  constructor(request, tell) {
    this.name = `request ${++count}`;
    this.id = `playground-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
    Object.assign(this, request); // path, body, files, previews
    this.tell = tell;
    this.way = [];
    this.began = performance.now();
    this.root = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.abort = new AbortController();
    this.part(".asked").textContent = asked(this.body);
    this.part(".thumbs").append(...this.files.map(([field, file]) => thumbnail(file, field.replace("_", " "))));
    this.part(".thumbs").hidden = !this.files.length;
    for (const [name, code] of SNIPPETS) {
      this.part(`[data-code=${name}]`).ariaLabel = `${name} of ${this.name}`;
      this.part(`[data-copy=${name}]`).addEventListener("click", () => navigator.clipboard.writeText(code(this)));
    }
    this.showCode();
    this.button("cancel").addEventListener("click", () => this.abort.abort());
    this.button("again").addEventListener("click", () => fill(this));
    this.button("edit").addEventListener("click", () => startFrom(this.picture));
    this.button("reply").addEventListener("click", () => goOn([...this.body.messages, { role: "assistant", content: this.part(".frame pre").textContent }]));
    this.button("remove").addEventListener("click", () => this.root.remove());
  }

  part(selector) { return this.root.querySelector(selector); }
  button(name) { return this.part(`[data-do=${name}]`); }

  async run() {
    this.say("waiting");
    try {
      if (this.path.includes("chat")) await this.write();
      else if (this.path.includes("videos")) await this.film();
      else if (this.path.includes("audio")) await this.sound();
      else await this.paint();
      this.end("done");
    } catch (error) {
      if (this.abort.signal.aborted) return this.end("cancelled");
      this.end("failed");
      const where = error instanceof Failure && error.stage ? `at stage ${error.stage}: ` : "";
      this.part(".error").textContent = where + (error.message || "the connection was lost");
      this.part(".error").hidden = false;
    }
  }

  async paint() {
    for await (const event of stream(this.path, { ...this.body, partial_images: this.previews }, this.files, this.id, this.abort.signal)) {
      this.show(event);
      if (event.type.endsWith(".completed")) {
        this.made(event.seed ?? this.body.seed, event.size);
        this.keep(this.part(".frame img").src, event.output_format);
        this.picture = ofBase64(event.b64_json, this.button("save").download, `image/${event.output_format}`);
        this.button("edit").hidden = !takesPictures();
      }
    }
  }

  // A video is a job on the server, which continues without this page; so cancelling deletes the job.
  async film() {
    let job = await post(this.path, this.body, this.files);
    const place = `${this.path}/${job.id}`;
    this.id = job.id;
    try {
      while (["queued", "in_progress"].includes(job.status)) {
        await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
        this.abort.signal.throwIfAborted();
        job = await get(place);
      }
    } catch (error) {
      if (this.abort.signal.aborted) await remove(place);
      throw error;
    }
    if (job.status === "failed") throw new Failure(200, job.error);
    const video = this.part("video");
    video.src = URL.createObjectURL(await blob(`${place}/content`));
    video.ariaLabel = asked(this.body);
    video.hidden = false;
    this.made(job.seed, `${job.size} · ${job.seconds} s`);
    this.keep(video.src, "mp4");
  }

  async sound() {
    const { content, headers } = await file(this.path, this.body, this.id, this.abort.signal);
    const player = this.part("audio");
    player.src = URL.createObjectURL(content);
    player.ariaLabel = asked(this.body);
    player.hidden = false;
    const channels = headers.get("X-Channels") === "1" ? "mono" : "stereo";
    this.made(headers.get("X-Seed"), `${headers.get("X-Sample-Rate") / 1000} kHz ${channels}`);
    this.keep(player.src, this.body.response_format);
  }

  async write() {
    const place = this.part(".frame pre");
    place.hidden = false;
    for await (const event of stream(this.path, this.body, [], this.id, this.abort.signal)) {
      const piece = event.choices[0]?.delta.content;
      if (typeof piece === "string") place.textContent += piece;
    }
    this.button("reply").hidden = false;
  }

  show(event) {
    const picture = this.part(".frame img");
    picture.src = `data:image/${event.output_format};base64,${event.b64_json}`;
    picture.alt = asked(this.body);
    picture.classList.toggle("small", parseInt(event.size) < SMALL);
    picture.hidden = false;
  }

  showCode() {
    for (const [name, code] of SNIPPETS) this.part(`[data-code=${name}]`).textContent = code(this);
  }

  // The result is there. From now on the request includes its seed, so that a repetition gives the same result.
  made(seed, size) {
    this.part(".asked").textContent = `${asked(this.body)} · seed ${seed} · ${size}`;
    this.body = { ...this.body, seed: Number(seed) };
    this.showCode();
  }

  keep(address, format) {
    const save = this.button("save");
    [save.href, save.download, save.hidden] = [address, `${this.id}.${format}`, false];
  }

  // Where the server says that it is: an entry of /omni/requests.
  progress(running) {
    const bar = this.part("progress");
    if (running.replica && running.replica !== this.way.at(-1)) this.way.push(running.replica);
    if (running.total_steps) bar.value = running.step / running.total_steps;
    const steps = running.total_steps ? `, step ${running.step} of ${running.total_steps}` : "";
    this.say(running.state === "running" ? `${this.way.join(" → ")}${steps}` : "waiting");
  }

  say(state) { this.part(".state").textContent = state; }

  end(state) {
    this.say(state);
    this.root.classList.add("ended");
    this.tell(`${state}: ${asked(this.body)}`);
    const seconds = ((performance.now() - this.began) / 1000).toFixed(1);
    this.part(".way").textContent = [this.way.join(" → "), `${seconds} s`].filter(Boolean).join(" · ");
    this.part(".way").hidden = false;
    this.part("progress").hidden = this.button("cancel").hidden = true;
    this.button("again").hidden = this.button("remove").hidden = false;
  }
}
