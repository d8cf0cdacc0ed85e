// The server's HTTP API, as any client uses it.

const here = new URL(".", document.baseURI);
let key = sessionStorage.getItem("api-key") ?? "";

export function setKey(value) {
  key = value;
  sessionStorage.setItem("api-key", value);
}

export class Failure extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.stage = error.stage;
    this.param = error.param;
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(new URL(path, here), { ...options, headers });
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Failure(response.status, body.error ?? { message: `the server answered ${response.status}` });
  }
  return response;
}

export const hasKey = () => key !== "";
export const get = async (path) => (await call(path)).json();
export const blob = async (path) => (await call(path)).blob();
export const remove = async (path) => call(path, { method: "DELETE" });

export const post = async (path, body, files) => (await send(path, body, files)).json();

// The file that a request answers with: its content, and the headers that describe it.
export async function file(path, body, id, signal) {
  const response = await send(path, body, [], { headers: { "X-Request-Id": id }, signal });
  return { content: await response.blob(), headers: response.headers };
}

// In JSON; or, with files, which are pairs of a field and a file, as a form.
function send(path, body, files = [], { headers, signal } = {}) {
  if (!files.length) return call(path, { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  const form = new FormData();
  for (const [field, value] of [...Object.entries(body), ...files]) form.append(field, value);
  return call(path, { method: "POST", headers, body: form, signal });
}

// The events of a streamed answer, as objects, until it ends. Throws Failure for an error in the midst of it.
export async function* stream(path, body, files, id, signal) {
  const response = await send(path, { ...body, stream: true }, files, { headers: { "X-Request-Id": id }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (!data || data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.error) throw new Failure(response.status, event.error);
      yield event;
    }
  }
}
